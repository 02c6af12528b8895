"""What a model is worth, in a sentence: whether it beats the best untrained baseline, and where it does not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from gam_kg.inference.report import KINDS, LABELS
from gam_kg.schemas import MODEL, SETTINGS

Kind = Literal["better", "same", "worse", "unknown"]

_MOST_NAMED, _MOST_LETTERS = 3, 80
_SPLITS = {"test": "test", "valid": "validation"}


@dataclass(frozen=True)
class Verdict:
    """What a model is worth.

    Attributes:
        kind: "better", "same" (not distinguishable) or "worse" than `baseline`; "unknown" without baselines.
        headline: One sentence that begins with `claim`.
        claim: The words that say which.
        lines: The figures behind it, and what else a reader must know.
        baseline: The baseline with the highest MRR on the split; None without baselines.
    """

    kind: Kind
    headline: str
    claim: str
    lines: tuple[str, ...]
    baseline: str | None = None


def verdict(metrics: dict[str, Any]) -> Verdict:
    """Judge the evaluation of a run.

    Args:
        metrics: The tree of `evaluation/metrics.json`.
    """
    split, setting = primary(metrics)
    mrr, where = _mrr(metrics, split, setting), f"on {_SPLITS[split]}, {_written(setting)}"
    lines = []
    if split == "valid":
        lines.append(
            "There are no figures of test: the weights were chosen on validation, which flatters the model a little."
        )
    compared = metrics.get("comparison", {}).get(split, {}).get(setting)
    if compared is None:
        claim = f"MRR {mrr:.1f} %"
        lines.append("No untrained baseline was ranked beside it, so this page cannot say what that is worth.")
        return Verdict("unknown", f"{claim} {where}, compared with nothing", claim, tuple(lines))
    overall = compared["overall"]
    chosen, differences = overall["best_baseline"], overall["model_minus"]
    highest = min(differences, key=lambda name: differences[name]["mrr"])
    names = {name: LABELS.get(name, name) for name in differences}
    kind = judged(differences[highest])
    amount, half = 100 * differences[highest]["mrr"], 50 * (differences[highest]["high"] - differences[highest]["low"])
    claim, headline = {
        "better": ("Beats", f"Beats the best untrained baseline by {amount:.1f} ± {half:.1f} MRR"),
        "same": (
            "Not distinguishable",
            f"Not distinguishable from the best untrained baseline: {amount:+.1f} ± {half:.1f} MRR",
        ),
        "worse": ("Worse", f"Worse than the best untrained baseline by {-amount:.1f} ± {half:.1f} MRR"),
    }[kind]
    if highest != chosen:
        headline += f" ({names[highest]}, which is ahead of the best on validation, {names[chosen]})"
    found, theirs = differences[chosen], _mrr(metrics["baselines"][chosen], split, setting)
    lines.insert(
        0,
        f"{LABELS[MODEL]} reaches an MRR of {mrr:.1f} % {where}; {names[chosen]}, the best baseline on validation, "
        f"reaches {theirs:.1f} %. The difference is {100 * found['mrr']:+.1f} points, with a 95 % interval from "
        f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f} (paired bootstrap over the questions of "
        f"{overall['count']:,} answers).",
    )
    for of_kind, words in (("worse", "worse than"), ("same", "not distinguishable from")):
        others = [names[name] for name, one in differences.items() if judged(one) == of_kind and name != highest]
        if others:
            lines.append(f"It is {'also ' if of_kind == kind else ''}{words} {', '.join(others)}.")
    return Verdict(kind, headline, claim, (*lines, *_misses(metrics, split)), highest)


def primary(metrics: dict[str, Any]) -> tuple[str, str]:
    """The split and the setting that the figures of a page are first of."""
    split = "test" if "test" in metrics else "valid"
    return split, "single_step" if "single_step" in metrics[split] else "multi_step"


def judged(found: dict[str, float]) -> Literal["better", "same", "worse"]:
    """What an interval of a difference says."""
    return "better" if found["low"] > 0 else "worse" if found["high"] < 0 else "same"


def parts(compared: dict[str, Any], kinds: tuple[str, ...]) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and difference to its best baseline of each part of some kinds."""
    for kind in kinds:
        for name, part in compared.get(kind, {}).items():
            written = name if kind.endswith("relations") else _written(name)
            yield f"{KINDS[kind]} {written}", part["model_minus"][part["best_baseline"]]


def _misses(metrics: dict[str, Any], split: str) -> Iterator[str]:
    """Where the model is not clearly better than the best baseline."""
    for setting in [name for name in SETTINGS if name in metrics["comparison"][split]]:
        compared = metrics["comparison"][split][setting]
        overall = compared["overall"]["model_minus"][compared["overall"]["best_baseline"]]
        if setting != primary(metrics)[1]:
            what = {"better": "better", "same": "not distinguishable", "worse": "worse"}[judged(overall)]
            half = 50 * (overall["high"] - overall["low"])
            yield f"In the {_written(setting)} setting it is {what}: {100 * overall['mrr']:+.1f} ± {half:.1f} MRR."
            continue
        found = dict(parts(compared, ("strata", "entities", "relations", "inverse_relations")))
        by_verdict = {kind: [name for name, one in found.items() if judged(one) == kind] for kind in ("same", "worse")}
        worst = sorted(by_verdict["worse"], key=lambda name, found=found: found[name]["mrr"])
        named = ", ".join(f"{_short(name)} ({100 * found[name]['mrr']:+.1f})" for name in worst[:_MOST_NAMED])
        more = f" and {len(worst) - _MOST_NAMED} more" if len(worst) > _MOST_NAMED else ""
        if found and (worst or by_verdict["same"]):
            chance = f"in {len(by_verdict['same'])} of them the difference may be chance"
            worse = f"it is worse in {len(worst)}: {named}{more}" if worst else "it is worse in none"
            yield f"Of {len(found)} parts of the answers, by relation and by what had been seen, {worse}; {chance}."


def _mrr(tree: dict[str, Any], split: str, setting: str) -> float:
    return 100 * tree[split][setting]["time_aware"]["both"]["mrr"]


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[:_MOST_LETTERS]}…"


def _written(name: str) -> str:
    return name.replace("_", "-")
