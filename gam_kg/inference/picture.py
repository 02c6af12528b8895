"""The picture of a report: training, comparison, strata, the curves over time and over the horizon."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gam_kg.inference.report import LABELS, trees_by_label
from gam_kg.metrics.parts import FEWEST_ANSWERS
from gam_kg.schemas import MODEL, STRATA


def draw(metrics: dict[str, Any], epochs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training, comparison, strata and the curves over time and horizon into one PNG.

    Args:
        metrics: The tree of `evaluation/metrics.json`.
        epochs: The metrics of each epoch.
        path: The PNG file.

    Raises:
        ImportError: matplotlib (the `report` extra) is not installed.
    """
    from matplotlib.figure import Figure

    split = "test" if "test" in metrics else "valid"
    setting = "single_step" if "single_step" in metrics[split] else "multi_step"
    found = {label: tree[setting] for label, tree in trees_by_label(metrics, split).items()}
    figure = Figure(figsize=(18, 8), layout="constrained")
    training, comparison, strata, curve, horizons, relations = figure.subplots(2, 3).flat
    _draw_training(training, epochs)
    values = [100 * tree["time_aware"]["both"]["mrr"] for tree in found.values()]
    bars = comparison.barh(list(found), values, color=["C0", *["0.7"] * (len(found) - 1)])
    comparison.bar_label(bars, fmt="%.1f", padding=3)
    comparison.invert_yaxis()
    comparison.margins(x=0.12)
    comparison.set(title=f"{split}, {setting.replace('_', '-')}, time-aware", xlabel="MRR, %")
    width = 0.8 / len(found)
    for offset, (label, tree) in enumerate(found.items()):
        heights = [100 * tree["strata"][name]["mrr"] for name in STRATA]
        places = np.arange(len(STRATA)) + width * (offset - (len(found) - 1) / 2)
        strata.bar(places, heights, width=0.94 * width, label=label)
    strata.set_xticks(range(len(STRATA)), [name.replace("_", " ") for name in STRATA])
    strata.set(title="by what had been seen before", ylabel="MRR, %")
    strata.legend(fontsize="small")
    for label, tree in found.items():
        points = tree["curve"]
        heights = [100 * point["mrr"] for point in points]
        curve.plot([point["timestamp"] for point in points], heights, label=label, linewidth=_line(label))
    step = max(1, len(found[LABELS[MODEL]]["curve"]) // 8)
    curve.set_xticks(curve.get_xticks()[::step])
    curve.tick_params(axis="x", rotation=30)
    curve.set(title="over time", ylabel="MRR, %")
    _draw_horizons(horizons, metrics, split)
    _draw_relations(relations, metrics.get("comparison", {}).get(split, {}).get(setting))
    figure.savefig(path, dpi=110)


def _draw_horizons(axes: Any, metrics: dict[str, Any], split: str) -> None:
    axes.set(title=f"{split}, multi-step, by horizon", xlabel="snapshots from the last visible one", ylabel="MRR, %")
    for label, tree in trees_by_label(metrics, split).items():
        if "multi_step" in tree:
            found = tree["multi_step"]["horizons"]
            heights = [100 * part["mrr"] for part in found.values()]
            axes.plot(list(found), heights, "o-", label=label, linewidth=_line(label))


def _line(label: str) -> int:
    return 2 if label == LABELS[MODEL] else 1


def _draw_relations(axes: Any, compared: dict[str, Any] | None) -> None:
    """The difference to the best baseline of each relation and direction, ascending, with its interval."""
    parts = [part for kind in ("relations", "inverse_relations") for part in (compared or {}).get(kind, {}).values()]
    found = sorted((part["model_minus"][part["best_baseline"]] for part in parts), key=lambda one: one["mrr"])
    for place, one in enumerate(found):
        color = "C3" if one["high"] < 0 else "C0"
        axes.plot([place, place], [100 * one["low"], 100 * one["high"]], color=color, alpha=0.5)
        axes.plot(place, 100 * one["mrr"], "o", color=color, markersize=3)
    axes.axhline(0, color="0.5", linewidth=1)
    axes.set(title="minus the best baseline", ylabel="difference of MRR, %", xticks=[])
    axes.set_xlabel(f"relations with {FEWEST_ANSWERS} answers or more, both directions")


def _draw_training(axes: Any, epochs: Sequence[dict[str, Any]]) -> None:
    numbers = [metrics["epoch"] for metrics in epochs]
    axes.plot(numbers, [metrics["loss"] for metrics in epochs], "o-", color="0.5")
    axes.set(title="training", xlabel="epoch", ylabel="loss (grey)", xticks=numbers)
    right = axes.twinx()
    right.plot(numbers, [100 * metrics["valid_mrr"] for metrics in epochs], "o-", color="C0")
    right.set_ylabel("validation MRR, % (blue)")
