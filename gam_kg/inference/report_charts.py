"""Which charts a report has: those that its data have something for, as SVG by name, and some of them as one PNG."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gam_kg.inference import charts
from gam_kg.inference.picture import Draw, draw, inline_svg
from gam_kg.inference.report import LABELS, trees_by_label
from gam_kg.inference.report_data import ReportData, curves
from gam_kg.inference.report_verdict import parts, primary

_TITLES = {
    "comparison": "MRR of each scorer",
    "over_time": "MRR over time",
    "strata": "MRR by what had been seen before",
    "horizons": "MRR by horizon, multi-step",
    "differences": "Model minus best baseline, by relation",
    "reliability": "Are the probabilities honest?",
    "facts": "Facts over time",
    "relation_counts": "Facts by relation",
    "degrees": "Entities by degree",
    "training": "Loss and validation MRR",
    "phases": "Time by phase of a training step",
    "map": "A map of the embeddings",
}
_OF_PNG = ("comparison", "over_time", "strata", "differences", "map", "training")
_SIZES = {"map": (4.6, 3.9)}


def page_charts(data: ReportData) -> dict[str, str]:
    """Name → SVG of each chart that the data have something for.

    Raises:
        ImportError: matplotlib (the `report` extra) is not installed.
    """
    return {
        name: inline_svg(name, _TITLES[name], draw_one, _SIZES.get(name, (4.6, 3.1)))
        for name, draw_one in _drawn(data).items()
    }


def draw_picture(data: ReportData, path: Path) -> None:
    """Draw the charts that say most into one PNG; raises as `page_charts` does."""
    found = _drawn(data)
    split, _ = primary(data.metrics)
    draw(
        {_TITLES[name]: found[name] for name in _OF_PNG if name in found},
        list(trees_by_label(data.metrics, split)),
        path,
    )


def _drawn(data: ReportData) -> Mapping[str, Draw]:
    metrics, (split, setting) = data.metrics, primary(data.metrics)
    every = trees_by_label(metrics, split)
    trees = {label: tree[setting] for label, tree in every.items()}
    found: dict[str, Draw] = {"comparison": partial(charts.draw_comparison, trees=trees)}
    by_name, starts = curves(metrics, data.over_time)
    over_time = {LABELS.get(name, name): points for name, points in by_name.items()}
    if len(next(iter(over_time.values()))) > 1:
        found["over_time"] = partial(charts.draw_over_time, curves=over_time, starts=starts)
    found["strata"] = partial(charts.draw_strata, trees=trees)
    ahead = {label: tree["multi_step"] for label, tree in every.items() if "multi_step" in tree}
    if ahead and len(next(iter(ahead.values()))["horizons"]) > 1:
        found["horizons"] = partial(charts.draw_horizons, trees=ahead)
    compared = metrics.get("comparison", {}).get(split, {}).get(setting, {})
    rows = [
        (name, 100 * one["mrr"], 100 * one["low"], 100 * one["high"])
        for name, one in parts(compared, ("relations", "inverse_relations"))
    ]
    if rows:
        found["differences"] = partial(charts.draw_differences, rows=rows)
    if tenths := _tenths(metrics[split][setting]):
        found["reliability"] = partial(charts.draw_reliability, tenths=tenths)
    profile = data.profile
    found["facts"] = partial(charts.draw_facts, labels=profile.labels, num_facts=profile.num_facts, split=profile.split)
    found["relation_counts"] = partial(charts.draw_names, names=profile.relations, numbers=profile.relation_counts)
    if (profile.degrees > 0).any():
        found["degrees"] = partial(charts.draw_degrees, degrees=profile.degrees)
    found["training"] = partial(charts.draw_training, epochs=data.epochs)
    found["phases"] = partial(charts.draw_phases, epochs=data.epochs)
    if data.look is not None and data.look.entities is not None:
        found["map"] = partial(charts.draw_map, found=data.look.entities)
    return found


def _tenths(tree: dict[str, Any]) -> dict[str, list[dict[str, float]]] | None:
    """Of the nearest horizon, where the evaluation has them."""
    return next((found.get("tenths") for found in tree.get("calibration", {}).values()), None)
