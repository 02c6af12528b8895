"""What each chart of a report shows, drawn onto axes of matplotlib; `picture` makes files of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gam_kg.schemas import SPLITS, STRATA
from gam_kg.text import printable

COLORS = {
    "ink": "#1b1f24",
    "muted": "#59616c",
    "line": "#dde1e7",
    "model": "#2b5fd9",
    "good": "#17713f",
    "bad": "#b3342a",
    "c1": "#c9720a",
    "c2": "#12897a",
    "c3": "#8a4fd3",
    "c4": "#c13c6e",
    "c5": "#8b95a3",
}
"""The names of the colors of a page, and what they are on white."""

OTHERS = ("c1", "c2", "c3", "c4", "c5")
_MOST_BARS = 300
_MOST_NAMES = 10
_MOST_LABELS = 10
_RIGHT = 0.15
"""Where on the map, in shares of its width from its middle, labels begin to be left of their points."""

Trees = Mapping[str, dict[str, Any]]
"""Label of a scorer → its metrics in one setting; the model is first."""
Tips = list[str]
"""What each point of a chart says when it is pointed at."""


def color_of(at: int) -> str:
    """Name of the color of a scorer by its place, the model first."""
    return "model" if at == 0 else OTHERS[(at - 1) % len(OTHERS)]


def draw_comparison(axes: Any, trees: Trees) -> None:
    """A bar for the MRR of each scorer."""
    values = [100 * tree["time_aware"]["both"]["mrr"] for tree in trees.values()]
    bars = axes.barh(list(trees), values, color=[COLORS["model"], *[COLORS["c5"]] * (len(trees) - 1)], height=0.7)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(*values, 1e-9))
    axes.set_xlabel("MRR, %")
    axes.grid(visible=False)


def draw_strata(axes: Any, trees: Trees) -> None:
    """Bars for the MRR of each scorer by stratum."""
    width = 0.8 / len(trees)
    for at, tree in enumerate(trees.values()):
        heights = [100 * tree["strata"][name]["mrr"] for name in STRATA]
        places = np.arange(len(STRATA)) + width * (at - (len(trees) - 1) / 2)
        axes.bar(places, heights, width=0.92 * width, color=COLORS[color_of(at)])
    axes.set_xticks(range(len(STRATA)), [name.replace("_", " ") for name in STRATA])
    axes.set_ylabel("MRR, %")


def draw_over_time(axes: Any, curves: Mapping[str, list[tuple[str, float, int]]], starts: Mapping[str, int]) -> None:
    """MRR of each scorer over time: smoothed, and of the model also as it is.

    Args:
        axes: Where to draw.
        curves: Label of a scorer → label of the snapshot, MRR (NaN leaves a gap) and number of answers of each point.
        starts: What begins at a point, as a split → its position.
    """
    for at, points in enumerate(curves.values()):
        heights = np.array([100 * mrr for _, mrr, _ in points])
        counts, color = np.array([float(count) for *_, count in points]), COLORS[color_of(at)]
        if at == 0:
            axes.plot(heights, "o", color=color, alpha=0.35, markersize=3, markeredgewidth=0)
        axes.plot(smoothed(heights, counts), color=color, linewidth=_width(at), zorder=9 - at)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
    for name, place in starts.items():
        if place:
            axes.axvline(place - 0.5, color=COLORS["muted"], linewidth=1, linestyle=":")
        where = (place - 0.5 if place else 0, 0.99)
        axes.annotate(f" {name}", where, xycoords=("data", "axes fraction"), va="top", fontsize="small")
    _time_ticks(axes, [label for label, *_ in next(iter(curves.values()))])
    axes.set_ylabel("MRR, %")


def smoothed(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean around each value, of about a sixth of all, which is narrower at both ends; (num_values,).

    A value that is NaN has none, and counts in no other mean.
    """
    known = np.isfinite(values)
    values, weights = np.where(known, values, 0), np.where(known, weights, 0)
    half = len(values) // 12
    starts = np.maximum(0, np.arange(len(values)) - half)
    ends = np.minimum(len(values), np.arange(len(values)) + half + 1)
    sums, totals = (np.concatenate([[0.0], np.cumsum(one)]) for one in (values * weights, weights))
    means = (sums[ends] - sums[starts]) / np.maximum(totals[ends] - totals[starts], 1e-9)
    return np.where(known, means, np.nan)


def draw_horizons(axes: Any, trees: Trees) -> None:
    """MRR of each scorer by horizon."""
    for at, tree in enumerate(trees.values()):
        heights = [100 * part["mrr"] for part in tree["horizons"].values()]
        axes.plot(
            list(tree["horizons"]), heights, "o-", color=COLORS[color_of(at)], linewidth=_width(at), zorder=9 - at
        )
    axes.set(xlabel="snapshots after the last visible one", ylabel="MRR, %")
    axes.set_ylim(bottom=0)


def draw_differences(axes: Any, rows: Sequence[tuple[str, float, float, float]]) -> Tips:
    """The difference to the best baseline of each part with its interval, ascending.

    Args:
        axes: Where to draw.
        rows: Name, mean, low and high of each, in percent.
    """
    rows = sorted(rows, key=lambda row: row[1])
    for place, (_, mean, low, high) in enumerate(rows):
        color = COLORS["bad" if high < 0 else "good" if low > 0 else "c5"]
        axes.plot([place, place], [low, high], color=color, linewidth=2, alpha=0.6, solid_capstyle="round")
        axes.plot(place, mean, "o", color=color, markersize=4)
    axes.scatter(range(len(rows)), [mean for _, mean, *_ in rows], s=60, alpha=0, gid="tips")
    axes.axhline(0, color=COLORS["muted"], linewidth=1)
    axes.set(ylabel="difference of MRR, points", xticks=[])
    return [f"{name}: {mean:+.1f} [{low:+.1f}, {high:+.1f}]" for name, mean, low, high in rows]


def draw_reliability(axes: Any, tenths: Mapping[str, list[dict[str, float]]]) -> Tips:
    """How often the best candidate is right, by its probability, before and after calibration."""
    axes.plot([0, 100], [0, 100], color=COLORS["muted"], linewidth=1, linestyle=":")
    for kind, color in (("raw", "c5"), ("calibrated", "model")):
        points = [[100 * point[name] for point in tenths[kind]] for name in ("probability", "share")]
        axes.plot(*points, "o-", color=COLORS[color], linewidth=_width(color != "model"))
    shown = tenths["calibrated"]
    axes.scatter(
        *([100 * point[name] for point in shown] for name in ("probability", "share")), s=60, alpha=0, gid="tips"
    )
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="probability of the best candidate, %", ylabel="right, %")
    return [
        f"{point['count']:,.0f} queries at {point['probability']:.0%}: right in {point['share']:.0%}" for point in shown
    ]


def draw_training(axes: Any, epochs: Sequence[dict[str, Any]]) -> None:
    """Loss and validation MRR by epoch."""
    numbers = [metrics["epoch"] for metrics in epochs]
    axes.plot(numbers, [metrics["loss"] for metrics in epochs], "o-", color=COLORS["c5"])
    axes.set(xlabel="epoch", ylabel="loss (grey)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    right = axes.twinx()
    right.plot(numbers, [100 * metrics["valid_mrr"] for metrics in epochs], "o-", color=COLORS["model"], linewidth=2)
    right.set_ylabel("validation MRR, % (blue)")
    right.grid(visible=False)


def draw_facts(axes: Any, labels: Sequence[str], num_facts: np.ndarray, split: np.ndarray) -> None:
    """Facts by snapshot, colored by split: an index into `schemas.SPLITS` of each snapshot, int64 (num_snapshots,)."""
    size = max(1, -(-len(labels) // _MOST_BARS))
    for at, color in enumerate(("c5", "c1", "model")):
        heights = np.add.reduceat(np.where(split == at, num_facts, 0), range(0, len(num_facts), size))
        places = np.flatnonzero(heights)
        axes.bar(places, heights[places], width=0.9, color=COLORS[color], label=SPLITS[at])
    _time_ticks(axes, labels[::size])
    axes.set_ylabel("facts" if size == 1 else f"facts of {size} snapshots")
    axes.yaxis.set_major_formatter("{x:,.0f}")


def draw_degrees(axes: Any, degrees: np.ndarray) -> None:
    """How many entities have at least a degree."""
    values, counts = np.unique(degrees[degrees > 0], return_counts=True)
    axes.step(values, counts[::-1].cumsum()[::-1], where="post", color=COLORS["model"], linewidth=2)
    axes.set(xscale="log", yscale="log", xlabel="facts of an entity, or more", ylabel="entities")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter("")


def draw_names(axes: Any, names: Sequence[str], numbers: Sequence[int]) -> None:
    """A bar for each of the first names."""
    shown = [short(name) for name in names[:_MOST_NAMES]]
    bars = axes.barh(range(len(shown)), numbers[:_MOST_NAMES], color=COLORS["model"], height=0.7)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize="small")
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(numbers))
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def draw_map(axes: Any, found: Any) -> Tips:
    """The entities of an `EntityMap`, colored by group, some of them named."""
    colors = [COLORS["model"], *(COLORS[name] for name in OTHERS)]
    axes.scatter(*found.place.T, s=10, c=[colors[group] for group in found.group], alpha=0.75, linewidths=0, gid="tips")
    placed: list[np.ndarray] = []
    middle = found.place.mean(0)
    size = np.maximum(np.ptp(found.place, axis=0), 1e-9)
    for at in found.labelled:
        where = (found.place[at] - middle) / size
        if len(placed) < _MOST_LABELS and all((np.abs(where - other) > (0.4, 0.06)).any() for other in placed):
            placed.append(where)
            side = "right" if where[0] > _RIGHT else "left"
            offset = (-4 if side == "right" else 4, 2)
            name = short(found.names[at], 22)
            axes.annotate(name, found.place[at], xytext=offset, textcoords="offset points", ha=side, fontsize="small")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return found.names


def draw_phases(axes: Any, epochs: Sequence[dict[str, Any]]) -> None:
    """How long each phase of the last epoch took."""
    phases = epochs[-1]["phases"]
    bars = axes.barh(list(phases), list(phases.values()), color=COLORS["c5"], height=0.7)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("seconds of the last epoch")
    axes.margins(x=0.15)
    axes.grid(visible=False)


def short(name: str, length: int = 26) -> str:
    """A name that fits beside a chart."""
    line = printable(name.replace("\n", " "))
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _width(at: int) -> float:
    return 2.4 if at == 0 else 1.1


def _time_ticks(axes: Any, labels: Sequence[str]) -> None:
    """Five labels of moments at most, fewer where they are long."""
    number = min(len(labels), max(2, min(5, 50 // max(map(len, labels)))))
    places = np.unique(np.linspace(0, len(labels) - 1, number).round().astype(int))
    axes.set_xticks(places, [short(labels[place], 20) for place in places])
    axes.set_xlim(-0.6, max(len(labels) - 0.4, 0.6))
