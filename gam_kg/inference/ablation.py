"""What each part of the model is worth: runs without it against runs with all parts, over the same seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gam_kg.inference.comparison_tables import difference_cells
from gam_kg.inference.report import Table
from gam_kg.inference.run_comparison import Comparison
from gam_kg.schemas import ABLATION

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Ablation:
    """The model without a part.

    Attributes:
        part: Name of the part; of the full model, its name.
        seconds: Seconds of training an epoch, averaged over epochs and seeds.
        found: The full model against the model without the part; of the full model, against itself.
    """

    part: str
    seconds: float
    found: list[Comparison]


def ablation_table(ablations: Sequence[Ablation]) -> pa.Table:
    """All figures, see `schemas.ABLATION`."""
    return pa.Table.from_pylist([_row(ablation, one) for ablation in ablations for one in ablation.found], ABLATION)


def _row(ablation: Ablation, one: Comparison) -> dict[str, Any]:
    mrr = np.array(one.second)
    return {
        **{"part": ablation.part, "split": one.split, "setting": one.setting, "answers": one.answers},
        **{"num_answers": one.count, "num_seeds": len(mrr), "mrr": mrr.mean(), "mrr_std": _std(one.second)},
        **{"mrr_min": mrr.min(), "mrr_max": mrr.max(), "difference": one.difference.mean},
        **{"low": one.difference.low, "high": one.difference.high, "seconds_per_epoch": ablation.seconds},
    }


def ablation_pages(ablations: Sequence[Ablation]) -> Iterator[Table]:
    """A table for each split and setting, in percent."""
    seeds = len(ablations[0].found[0].second)
    header = ["mean" if seeds == 1 else f"mean of {seeds} seeds", "std", "least to most"]
    header += ["difference", "95 % interval", "s/epoch"]
    for split, setting in _evaluated(ablations):
        rows = []
        for ablation, one in _overall(ablations, split, setting):
            std, mrr = _std(one.second), 100 * np.array(one.second)
            spread = ["" if std is None else f"{100 * std:.2f}", f"{mrr.min():.2f} to {mrr.max():.2f}"]
            label, difference = _label(ablation), difference_cells(one.difference)
            if ablation is ablations[0]:
                label, difference = f"{ablation.part} model", ("", "")
            rows.append([label, f"{mrr.mean():.2f}", *spread, *difference, f"{ablation.seconds:.1f}"])
        yield [f"{split}, {setting.replace('_', '-')}, MRR %", *header], rows


def draw_ablation(ablations: Sequence[Ablation], path: Path) -> None:
    """Draw `ablation_figure` into a PNG; raises as it does."""
    ablation_figure(ablations).savefig(path, dpi=110, format="png")


def ablation_figure(ablations: Sequence[Ablation]) -> "Figure":
    """The difference to the full model that each part switched off makes, with its interval.

    There is a row of panels for each split and a column for each setting, and the panels of a row have one scale.

    Raises:
        ImportError: matplotlib (the `report` extra) is not installed.
    """
    from matplotlib.figure import Figure

    panels, parts = _evaluated(ablations), ablations[1:]
    splits, settings = (list(dict.fromkeys(names)) for names in zip(*panels, strict=True))
    size = 5 * len(settings) + 2, len(splits) * (1.2 + 0.3 * len(parts)) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(splits), len(settings), sharex="row", sharey=True, squeeze=False)
    for split, setting in panels:
        axis = axes[splits.index(split), settings.index(setting)]
        full = np.array(next(one for _, one in _overall(ablations, split, setting)).second)
        for row, (_, one) in enumerate(_overall(parts, split, setting)):
            axis.plot(100 * (np.array(one.second) - full), [row] * len(full), "|", color="0.5")
            axis.plot([100 * one.difference.low, 100 * one.difference.high], [row, row], color="C0", linewidth=3)
            axis.plot(100 * one.difference.mean, row, "o", color="C0")
        axis.set_yticks(range(len(parts)), [_label(ablation) for ablation in parts])
        axis.set_ylim(max(1, len(parts)) - 0.5, -0.5)
        axis.axvline(0, color="0.7", linewidth=1)
        axis.set_title(f"{split}, {setting.replace('_', '-')}: full model {100 * full.mean():.2f} %")
        axis.set_xlabel("MRR minus that of the full model, %")
    count = len(ablations[0].found[0].second)
    seeds = "1 seed" if count == 1 else f"point: mean over {count} seeds; ticks: each seed"
    figure.supxlabel(f"{seeds}; line: 95 % interval over queries, which does not cover other seeds", fontsize="small")
    return figure


def _label(ablation: Ablation) -> str:
    return f"no {ablation.part.replace('_', ' ')}"


def _evaluated(ablations: Sequence[Ablation]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.split, one.setting) for one in ablations[0].found))


def _overall(ablations: Sequence[Ablation], split: str, setting: str) -> Iterator[tuple[Ablation, Comparison]]:
    for ablation in ablations:
        for one in ablation.found:
            if (one.split, one.setting, one.answers) == (split, setting, "both"):
                yield ablation, one


def _std(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
