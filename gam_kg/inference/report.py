"""A run's results as tables and pictures."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from gam_kg.schemas import MODEL, STRATA
from gam_kg.text import printable

_LABELS = {
    MODEL: "GAM_LSTM",
    "popularity": "popularity",
    "recurrency_strict": "recurrency, strict",
    "recurrency_combined": "recurrency, combined",
    "typed_pair_counts": "typed pair counts",
}
_COLUMNS = {
    "MRR": ("single_step", "time_aware", "mrr"),
    "Hits@1": ("single_step", "time_aware", "hits@1"),
    "Hits@3": ("single_step", "time_aware", "hits@3"),
    "Hits@10": ("single_step", "time_aware", "hits@10"),
    "raw MRR": ("single_step", "raw", "mrr"),
    "multi-step MRR": ("multi_step", "time_aware", "mrr"),
}


def metrics_table(metrics: dict[str, Any], split: str) -> tuple[list[str], list[list[str]]]:
    """Model and baselines side by side, in percent.

    Args:
        metrics: The tree of `evaluation/metrics.json`.
        split: "valid" or "test".

    Returns:
        The header and one row a scorer; settings that were not evaluated are blank.
    """
    rows = []
    for label, tree in _trees(metrics, split).items():
        cells = [label]
        for setting, name, key in _COLUMNS.values():
            cells.append(f"{100 * tree[setting][name]['both'][key]:.1f}" if setting in tree else "")
        rows.append(cells)
    return [f"{split}, %", *_COLUMNS], rows


def strata_table(metrics: dict[str, Any], split: str) -> tuple[list[str], list[list[str]]]:
    """Single-step MRR by stratum in percent, with each stratum's share of the queries."""
    strata = metrics[split]["single_step"]["strata"]
    total = max(1, sum(stratum["count"] for stratum in strata.values()))
    header = [f"{split} MRR, %", *(f"{name} ({100 * part['count'] / total:.0f} %)" for name, part in strata.items())]
    rows = [
        [label, *(f"{100 * tree['single_step']['strata'][part]['mrr']:.1f}" for part in strata)]
        for label, tree in _trees(metrics, split).items()
    ]
    return header, rows


def time_table(epochs: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Time of the last epoch by phase on its first rank: milliseconds per step, and percent."""
    steps = _steps(epochs)
    total = max(1e-9, epochs[-1]["seconds"])
    rows = [
        [phase, f"{1000 * seconds / steps:.1f}", f"{100 * seconds / total:.0f}"]
        for phase, seconds in epochs[-1]["phases"].items()
    ]
    workers = epochs[-1]["world_size"]
    return [f"phase of a step, {workers} worker{'s' if workers > 1 else ''}", "ms", "%"], rows


def traffic_table(epochs: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Traffic of the first rank by purpose, a step of the last epoch; the time in collectives includes waiting."""
    steps = _steps(epochs)
    rows = []
    for purpose, found in epochs[-1]["traffic"].items():
        sent, number, seconds = (found[name] / steps for name in ("bytes", "collectives", "seconds"))
        rows.append([purpose, f"{sent / 1000:,.1f}", f"{number:.1f}", f"{1000 * seconds:.1f}"])
    return ["communication of a step", "kB sent", "collectives", "ms"], rows


def _trees(metrics: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    """Metrics of a split by setting, of the model and then of each baseline, by label."""
    trees = {MODEL: metrics, **metrics["baselines"]}
    return {_LABELS.get(name, name): tree[split] for name, tree in trees.items()}


def _steps(epochs: Sequence[dict[str, Any]]) -> int:
    before = epochs[-2]["step"] if len(epochs) > 1 else 0
    return max(1, epochs[-1]["step"] - before)


def draw(metrics: dict[str, Any], epochs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training, comparison, strata and the curve over time into one PNG.

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
    found = {label: tree[setting] for label, tree in _trees(metrics, split).items()}
    figure = Figure(figsize=(12, 8), layout="constrained")
    training, comparison, strata, curve = figure.subplots(2, 2).flat
    _draw_training(training, epochs)
    values = [100 * tree["time_aware"]["both"]["mrr"] for tree in found.values()]
    bars = comparison.barh(list(found), values, color=["C0", *["0.7"] * (len(found) - 1)])
    comparison.bar_label(bars, fmt="%.1f", padding=3)
    comparison.invert_yaxis()
    comparison.margins(x=0.12)
    comparison.set(title=f"{split}, {setting.replace('_', '-')}, time-aware", xlabel="MRR, %")
    for offset, (label, tree) in enumerate(found.items()):
        heights = [100 * tree["strata"][name]["mrr"] for name in STRATA]
        strata.bar(np.arange(len(STRATA)) + 0.16 * (offset - (len(found) - 1) / 2), heights, width=0.15, label=label)
    strata.set_xticks(range(len(STRATA)), [name.replace("_", " ") for name in STRATA])
    strata.set(title="by what had been seen before", ylabel="MRR, %")
    strata.legend(fontsize="small")
    for label, tree in found.items():
        points = tree["curve"]
        width = 2 if label == _LABELS[MODEL] else 1
        curve.plot([p["timestamp"] for p in points], [100 * p["mrr"] for p in points], label=label, linewidth=width)
    step = max(1, len(found[_LABELS[MODEL]]["curve"]) // 8)
    curve.set_xticks(curve.get_xticks()[::step])
    curve.tick_params(axis="x", rotation=30)
    curve.set(title="over time", ylabel="MRR, %")
    figure.savefig(path, dpi=110)


def write_html(
    path: Path, title: str, summary: Sequence[str], tables: Sequence[tuple[list[str], list[list[str]]]]
) -> None:
    """Write a page with the summary lines, the tables and, where it is, the picture `report.png` beside it."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(title)}</title>", _STYLE]
    parts.append(f"<h1>{_text(title)}</h1>" + "".join(f"<p>{_text(line)}</p>" for line in summary))
    for header, rows in tables:
        head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        parts.append(f"<table><tr>{head}</tr>{body}</table>")
    if path.with_name("report.png").exists():
        parts.append('<img src="report.png" alt="training, comparison, strata and curve over time">')
    parts.append("</html>")
    path.write_text("\n".join(parts), encoding="utf-8")


def _text(found: str) -> str:
    return escape(printable(found))


_STYLE = (
    "<style>body{font:15px system-ui;max-width:75em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}"
    "td,th{padding:.3em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}"
    "tr:nth-child(2){font-weight:600}img{max-width:100%}</style>"
)


def _draw_training(axes: Any, epochs: Sequence[dict[str, Any]]) -> None:
    numbers = [metrics["epoch"] for metrics in epochs]
    axes.plot(numbers, [metrics["loss"] for metrics in epochs], "o-", color="0.5")
    axes.set(title="training", xlabel="epoch", ylabel="loss (grey)", xticks=numbers)
    right = axes.twinx()
    right.plot(numbers, [100 * metrics["valid_mrr"] for metrics in epochs], "o-", color="C0")
    right.set_ylabel("validation MRR, % (blue)")
