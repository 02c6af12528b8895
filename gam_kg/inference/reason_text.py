"""Reasons for a score in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gam_kg.history.confidence import BOUNDS


@dataclass(frozen=True)
class PastFact:
    """A fact of the past, by name, in the direction in which it is stored.

    Attributes:
        subject, relation, object: Names; None: anyone.
        timestamp: When it was last seen.
        times_seen: In how many snapshots it was seen.
    """

    subject: str | int | None
    relation: str | int
    object: str | int | None
    timestamp: str
    times_seen: int

    def __str__(self) -> str:
        subject, object_ = ("anyone" if name is None else name for name in (self.subject, self.object))
        return f"({subject}, {self.relation}, {object_})"


@dataclass(frozen=True)
class Ago:
    """Snapshots before a query, in words.

    Attributes:
        time: Snapshot of the query.
        unit: What a snapshot is called.
        label: Snapshots as users write them.
    """

    time: int
    unit: str
    label: dict[int, str]

    def of(self, snapshot: int) -> str:
        """When a snapshot was, as "2017, 1 year before"."""
        return f"{self.label[snapshot]}, {counted(self.time - snapshot, self.unit)} before"


def counted(number: int, noun: str) -> str:
    """A number with its noun, as "2 years"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def reason_text(part: str, facts: Sequence[PastFact], last: Sequence[int], found: dict[str, Any], ago: Ago) -> str:
    """A reason in words.

    Args:
        part: The part of the score, one of `PARTS`.
        facts: The past facts that the reason consists of.
        last: The snapshots in which they were last seen.
        found: The other statistics of the reason, see `Carriers`.
        ago: Puts snapshots into words.
    """
    seen = [
        f"{fact} seen {counted(fact.times_seen, 'time')}, last {ago.of(at)}"
        for fact, at in zip(facts, last, strict=True)
    ]
    if part == "paths":
        return f"{seen[0]}; then {seen[1]}"
    if part == "rules":
        return f"{seen[0]}: it led to this answer in {found['hits']:,} of {counted(found['exposures'], 'case')}"
    if part == "confidence":
        return f"all counted rules together give it a probability of {_probability(found['bin'])}"
    return _pattern(found, ago) if part == "pattern" else seen[0]


def _probability(bin_: int) -> str:
    bounds = [0.0, *BOUNDS.tolist(), 1.0]
    return f"{100 * bounds[bin_]:.3g} to {100 * bounds[bin_ + 1]:.3g} %"


def _pattern(found: dict[str, Any], ago: Ago) -> str:
    """The pattern of a pair: of its fact with the relation of the query, or of all its facts where there is none."""
    relations = counted(found["relations"], "relation")
    if not found["times_seen"]:
        facts = counted(found["facts"], "time")
        return f"seen {facts} by {relations}, last {ago.of(found['last_fact'])}, and never by that of the query"
    parts = [f"seen {counted(found['times_seen'], 'time')}, last {ago.of(found['last_seen'])}"]
    if found["times_seen"] > 1:
        gap = found["mean_gap"]
        often = f"every {ago.unit}" if gap == 1 else f"every {gap:.3g} {ago.unit}s on average"
        parts.append(f"{often}, {found['streak']:,} in a row at last")
    others = f"among {found['distinct']:,} different ones" if found["distinct"] > 1 else "there were no others"
    parts.append(f"{100 * found['share']:.0f} % of the answers so far, {others}")
    parts += [f"{counted(found['since'], 'answer')} since then", f"{relations} between the two"]
    return "; ".join(parts)
