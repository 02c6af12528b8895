"""The best-possible MRR on a synthetic graph, by an oracle that knows the process and all facts before t.

The protocol is that of evaluation: single-step, both directions, all entities as candidates, time-aware filter. The
oracle knows the settings, the popularity, who is present when and which series there are, but no future draw. For a
query it ranks the candidates by their probability to be an answer, the equally probable ones in any order (a tie would
cost it: 1 over the mean rank is less than the mean of 1 over the ranks).

No predictor has a greater expected MRR. An answer gains 1 / (1 + candidates above it that are no answers); exchanging
two neighbours in the order changes only what these two gain, when one of them is an answer and the other is not, and
the greater gain goes to the likelier. This needs only that, given the past, the other answers do not favour one of the
two: an object query has one answer, and the subjects that may be answers have objects that are independent of each
other, in slots whose choice favours none.

* **Object query** (s, r, ?, t): first the predicted object, with 1 - noise + noise * popularity, then the rest of the
  entities present by popularity.
* **Subject query** (?, r, o, t): three tiers of the series that may have a fact at t. First those whose predicted
  object is o; then those without a prediction, which draw o by popularity; then those with another one, which need
  noise. Nobody else can be an answer. A fact is possible for every series whose subject is present; of follows, for
  those with a lead at t - 1.

The figure is the mean over the generated facts, each with the mean of 1 / rank over the orders within its tier: an
unbiased estimate of the expectation, given with its standard error. A model measured on the same facts shares most of
that error. Even a perfect learner stays below, for two reasons: it has to learn what the oracle knows, and it cannot
name a subject that has not been seen yet. Entities that happen never to take part count as candidates here.
"""

from dataclasses import dataclass

import numpy as np

from gam_kg.synthetic.generator import NOTHING, GroupFacts, RelationFacts, position_in_series

ROLES = ("recurrent", "periodic", "chained_lead", "chained_follow", "random")
"""What has an optimum of its own: the patterns, and the two relations of a chain."""

_FIELDS = ("facts", "object", "subject", "object_squared", "subject_squared", "both_squared")
_PREDICTED, _UNPREDICTED, _OTHER = range(3)  # tiers, by what is predicted for a series: the object, none, another


@dataclass(frozen=True)
class Optimum:
    """Sums of reciprocal ranks by role and snapshot; mergeable in any order.

    Attributes:
        sums: float64 (num_roles, num_snapshots, num_fields).
    """

    sums: np.ndarray

    @classmethod
    def empty(cls, num_snapshots: int) -> "Optimum":
        """Of no facts."""
        return cls(np.zeros((len(ROLES), num_snapshots, len(_FIELDS))))

    @classmethod
    def of(cls, generated: GroupFacts, num_snapshots: int) -> "Optimum":
        """Of the facts of a group."""
        found = cls.empty(num_snapshots)
        for index, facts in enumerate(generated.facts):
            objects, subjects = object_reciprocals(generated, index), subject_reciprocals(generated, index)
            both = (objects + subjects) / 2
            values = (np.ones(len(facts)), objects, subjects, objects**2, subjects**2, both**2)
            sums = [np.bincount(facts.time, weights=value, minlength=num_snapshots) for value in values]
            pattern = generated.group.pattern
            role = ("chained_lead", "chained_follow")[index] if pattern == "chained" else pattern
            found.sums[ROLES.index(role)] += np.stack(sums, 1)
        return found

    def merge(self, other: "Optimum") -> "Optimum":
        """Of all the facts together."""
        return Optimum(self.sums + other.sums)

    @property
    def num_facts(self) -> np.ndarray:
        """Facts of each snapshot, int64 (num_snapshots,)."""
        return self.sums[:, :, 0].sum(0).astype(np.int64)

    def compute(self, start: int, stop: int) -> dict[str, dict[str, float]]:
        """MRR in the snapshots [start, stop).

        Returns:
            "all" and each role that has facts there → `facts`; `mrr` of `both` directions, `object` and `subject`; and
            the `_error` of each, its standard error.
        """
        sums = self.sums[:, start:stop].sum(1)
        rows = {"all": sums.sum(0)} | dict(zip(ROLES, sums, strict=True))
        return {name: _means(row) for name, row in rows.items() if row[0]}


def object_reciprocals(generated: GroupFacts, index: int) -> np.ndarray:
    """1 / rank of the object of each fact of one of a group's relations, float64 (num_facts,)."""
    facts = generated.facts[index]
    better = generated.popularity.num_before(facts.object, facts.time)
    # The predicted object moves to the front; entities are numbered by popularity.
    moved = (facts.predicted != NOTHING) & (facts.predicted > facts.object)
    return 1 / np.where(facts.predicted == facts.object, 1, 1 + better + moved)


def subject_reciprocals(generated: GroupFacts, index: int) -> np.ndarray:
    """As `object_reciprocals`, of the subject: the mean over the orders within its tier, without the other answers."""
    facts = generated.facts[index]
    sizes = _tiers_of_follows(facts) if index else _tiers_of_series(generated)
    tier = np.where(facts.predicted == NOTHING, _UNPREDICTED, _OTHER)
    tier[facts.predicted == facts.object] = _PREDICTED
    _, query = np.unique(facts.object * _stride(facts) + facts.time, return_inverse=True)
    count = np.bincount(query * 3 + tier, minlength=3 * (query.max(initial=-1) + 1))
    wrong = sizes - count.reshape(-1, 3)[query].T  # candidates that are no answers
    above = (np.cumsum(wrong, 0) - wrong)[tier, np.arange(len(tier))]
    among = wrong[tier, np.arange(len(tier))] + 1
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, (above + among).max(initial=0) + 1))])
    return (harmonic[above + among] - harmonic[above]) / among


def _tiers_of_series(generated: GroupFacts) -> np.ndarray:
    """Sizes of the tiers of each fact of a group's first relation, int64 (3, num_facts)."""
    facts, period = generated.facts[0], generated.group.period
    present = np.searchsorted(np.sort(generated.born), facts.time, side="right")
    if not period:
        return np.stack([np.zeros_like(present), present, np.zeros_like(present)])
    stride = _stride(facts)
    position = position_in_series(facts.subject)
    # Every fact except the first few of a series makes an object predicted, until the next fact of the series.
    since = np.flatnonzero(position >= period - 1)
    until = np.flatnonzero(position >= period)
    begun = facts.object[since - (period - 1)] * stride + facts.time[since]
    ended = facts.predicted[until] * stride + facts.time[until]
    same = _num_earlier(begun, facts, stride) - _num_earlier(ended, facts, stride)
    any_object = np.searchsorted(np.sort(facts.time[position == period - 1]), facts.time)
    return np.stack([same, present - any_object, any_object - same])


def _num_earlier(keys: np.ndarray, facts: RelationFacts, stride: int) -> np.ndarray:
    """How many keys (object * stride + time) have the object of each fact and an earlier time."""
    keys, base = np.sort(keys), facts.object * stride
    return np.searchsorted(keys, base + facts.time) - np.searchsorted(keys, base)


def _tiers_of_follows(follows: RelationFacts) -> np.ndarray:
    """Sizes of the tiers of each follow, int64 (3, num_facts): every follow that is possible is a fact."""
    stride = _stride(follows)
    known = follows.predicted != NOTHING
    keys = np.sort((follows.predicted * stride + follows.time)[known])
    requested = follows.object * stride + follows.time
    same = np.searchsorted(keys, requested, side="right") - np.searchsorted(keys, requested)
    none, any_object = (np.bincount(follows.time[which], minlength=stride)[follows.time] for which in (~known, known))
    return np.stack([same, none, any_object - same])


def _stride(facts: RelationFacts) -> int:
    """More than any time, so that each (entity, time) has its own entity * stride + time."""
    return int(facts.time.max(initial=0)) + 1


def _means(row: np.ndarray) -> dict[str, float]:
    num_facts, objects, subjects, *squares = row.tolist()
    means = {"object": objects / num_facts, "subject": subjects / num_facts}
    means["both"] = (means["object"] + means["subject"]) / 2
    found: dict[str, float] = {"facts": int(num_facts)}
    for name, squared in zip(("object", "subject", "both"), squares, strict=True):
        variance = max(0.0, squared / num_facts - means[name] ** 2)
        found |= {name: means[name], f"{name}_error": (variance / num_facts) ** 0.5}
    return found
