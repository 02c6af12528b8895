"""A run's results as tables."""

from collections.abc import Sequence
from typing import Any

from gam_kg.metrics.reliability import KINDS as KINDS_OF_PROBABILITY
from gam_kg.schemas import MODEL, SETTINGS

Table = tuple[list[str], list[list[str]]]
"""A header and rows."""

LABELS = {
    MODEL: "GAM_LSTM",
    "popularity": "popularity",
    "recurrency_strict": "recurrency, strict",
    "recurrency_combined": "recurrency, combined",
    "typed_pair_counts": "typed pair counts",
    "rule_counts": "c-rules and pair counts",
}
KINDS = {
    "strata": "stratum",
    "entities": "entities",
    "horizons": "horizon",
    "relations": "object of",
    "inverse_relations": "subject of",
}
"""What a part of each kind is."""

_COLUMNS = {
    "MRR": ("single_step", "time_aware", "mrr"),
    "Hits@1": ("single_step", "time_aware", "hits@1"),
    "Hits@3": ("single_step", "time_aware", "hits@3"),
    "Hits@10": ("single_step", "time_aware", "hits@10"),
    "raw MRR": ("single_step", "raw", "mrr"),
    "multi-step MRR": ("multi_step", "time_aware", "mrr"),
}


def short_tables(metrics: dict[str, Any], split: str) -> list[Table]:
    """The tables of a split that a command shows."""
    tables = [metrics_table(metrics, split)]
    if metrics.get("comparison", {}).get(split):
        tables.append(difference_table(metrics, split))
    if "multi_step" in metrics[split]:
        tables.append(part_table(metrics, split, "multi_step", "horizons"))
    return tables


def metrics_table(metrics: dict[str, Any], split: str) -> Table:
    """Model and baselines side by side, in percent.

    Args:
        metrics: The tree of `evaluation/metrics.json`.
        split: "valid" or "test".

    Returns:
        One row a scorer; settings that were not evaluated are blank.
    """
    rows = []
    for label, tree in trees_by_label(metrics, split).items():
        cells = [label]
        for setting, name, key in _COLUMNS.values():
            cells.append(f"{100 * tree[setting][name]['both'][key]:.1f}" if setting in tree else "")
        rows.append(cells)
    return [f"{split}, %", *_COLUMNS], rows


def difference_table(metrics: dict[str, Any], split: str) -> Table:
    """MRR of the model minus that of each baseline by setting, in percent, with 95 % intervals."""
    found = metrics["comparison"][split]
    overall = {setting: found[setting]["overall"]["model_minus"] for setting in SETTINGS if setting in found}
    rows = [
        [LABELS.get(name, name), *(_difference(differences[name]) for differences in overall.values())]
        for name in metrics["baselines"]
    ]
    return [f"{split} MRR, {LABELS[MODEL]} minus baseline, %", *map(_written, overall)], rows


def part_table(metrics: dict[str, Any], split: str, setting: str, kind: str) -> Table:
    """MRR by part in percent, with each part's share of the answers.

    Args:
        metrics: The tree of `evaluation/metrics.json`.
        split: "valid" or "test".
        setting: "single_step" or "multi_step".
        kind: "strata", "entities" or "horizons".
    """
    trees = {label: tree[setting][kind] for label, tree in trees_by_label(metrics, split).items()}
    parts = metrics[split][setting][kind]
    total = max(1, sum(part["count"] for part in parts.values()))
    title = f"{split} {_written(setting)} MRR by {KINDS[kind]}, %"
    header = [title, *(f"{_written(name)} ({100 * part['count'] / total:.0f} %)" for name, part in parts.items())]
    rows = [[label, *(f"{100 * tree[part]['mrr']:.1f}" for part in parts)] for label, tree in trees.items()]
    return header, rows


def best_table(metrics: dict[str, Any], split: str) -> Table:
    """MRR of the model minus that of the best baseline by part, in percent, with 95 % intervals."""
    compared, rows = metrics["comparison"][split], []
    shown = [(setting, kind) for setting in SETTINGS for kind in ("strata", "entities")]
    for setting, kind in (*shown, ("multi_step", "horizons")):
        for name, part in compared.get(setting, {}).get(kind, {}).items():
            rows.append([f"{KINDS[kind]} {_written(name)}", _written(setting), *_best(part)])
    return [f"{split} MRR, {LABELS[MODEL]} minus best baseline, %", "setting", *_best_header(compared)], rows


def worse_table(metrics: dict[str, Any], split: str) -> Table:
    """Relations and horizons where the model's MRR is below the best baseline's by more than the 95 % interval."""
    compared, rows, number = metrics["comparison"][split], [], 0
    for setting, of_setting in compared.items():
        for kind in ("relations", "inverse_relations", "horizons"):
            for name, part in of_setting[kind].items():
                number += 1
                if part["model_minus"][part["best_baseline"]]["high"] < 0:
                    rows.append([f"{KINDS[kind]} {name}", _written(setting), *_best(part)])
    title = f"{split}: worse than the best baseline in {len(rows)} of {number} relations and horizons"
    return [title, "setting", *_best_header(compared)], rows


def calibration_table(metrics: dict[str, Any], split: str) -> Table:
    """Expected calibration error and mean log-likelihood of the model by horizon, raw and calibrated."""
    header = [f"{split}: probabilities of {LABELS[MODEL]}", "queries", "temperature"]
    header += ["calibration error, %", "calibrated", "log-likelihood", "calibrated"]
    rows = []
    for setting in [name for name in SETTINGS if name in metrics[split]]:
        for name, found in metrics[split][setting]["calibration"].items():
            cells = [f"{_written(setting)}, horizon {name}", f"{found['count']:,}", f"{found['temperature']:.2f}"]
            cells += [f"{100 * found[f'ece_{kind}']:.1f}" for kind in KINDS_OF_PROBABILITY]
            rows.append(cells + [f"{found[f'log_likelihood_{kind}']:.2f}" for kind in KINDS_OF_PROBABILITY])
    return header, rows


def _best(part: dict[str, Any]) -> list[str]:
    best = part["best_baseline"]
    return [f"{part['count']:,}", LABELS.get(best, best), _difference(part["model_minus"][best])]


def _best_header(compared: dict[str, Any]) -> list[str]:
    chosen_on = next(iter(compared.values()))["chosen_on"]
    return ["answers", f"baseline, best on {chosen_on}", "difference of MRR, %"]


def _difference(found: dict[str, float]) -> str:
    return f"{100 * found['mrr']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def _written(name: str) -> str:
    return name.replace("_", "-")


def time_table(epochs: Sequence[dict[str, Any]]) -> Table:
    """Time of the last epoch by phase on its first rank: milliseconds per step, and percent."""
    steps = _steps(epochs)
    total = max(1e-9, epochs[-1]["seconds"])
    rows = [
        [phase, f"{1000 * seconds / steps:.1f}", f"{100 * seconds / total:.0f}"]
        for phase, seconds in epochs[-1]["phases"].items()
    ]
    workers = epochs[-1]["world_size"]
    return [f"phase of a step, {workers} worker{'s' if workers > 1 else ''}", "ms", "%"], rows


def traffic_table(epochs: Sequence[dict[str, Any]]) -> Table:
    """Traffic of the first rank by purpose, a step of the last epoch; the time in collectives includes waiting."""
    steps = _steps(epochs)
    rows = []
    for purpose, found in epochs[-1]["traffic"].items():
        sent, number, seconds = (found[name] / steps for name in ("bytes", "collectives", "seconds"))
        rows.append([purpose, f"{sent / 1000:,.1f}", f"{number:.1f}", f"{1000 * seconds:.1f}"])
    return ["communication of a step", "kB sent", "collectives", "ms"], rows


def trees_by_label(metrics: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    """Metrics of a split by setting, of the model and then of each baseline, by label."""
    trees = {MODEL: metrics, **metrics["baselines"]}
    return {LABELS.get(name, name): tree[split] for name, tree in trees.items()}


def _steps(epochs: Sequence[dict[str, Any]]) -> int:
    before = epochs[-2]["step"] if len(epochs) > 1 else 0
    return max(1, epochs[-1]["step"] - before)
