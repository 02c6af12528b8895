"""The best-possible MRR on a synthetic graph, by an oracle that knows the process and all facts before t.

Assumed is the protocol of evaluation: single-step, both directions, all entities as candidates, time-aware filter. The
oracle knows the settings, the popularity, who is present when and which series there are, but no draw that is still to
come. For a query it puts the candidates in the order of their probability to be an answer, the equally probable ones
in any order (a tie would cost it: 1 over the mean rank is less than the mean of 1 over the ranks).

No predictor has a greater expected MRR. An answer gains 1 / (1 + candidates above it that are no answers); exchanging
two neighbours in the order changes only what these two gain, when one of them is an answer and the other is not, and
the greater gain goes to the likelier. That needs nothing but that, given the past, what else is an answer does not
favour one of the two: an object query has one answer, and the subjects that may answer say their objects independently
of each other and speak by a choice that favours none.

* **Object query** (s, r, ?, t): first the predicted object, with 1 - noise + noise * popularity, then the rest of the
  entities present by popularity.
* **Subject query** (?, r, o, t): three tiers of the subjects that may speak at t. First those whose predicted object is
  o; then those without a prediction, who draw o by popularity; then those with another one, for whom it takes noise.
  Everyone else cannot have said it. Who may speak: every series whose subject is present; of follows, who led at t - 1.

The figure is the mean over the facts as they came, each given the mean of 1 / rank over the orders within its tier: an
unbiased estimate of the expectation, whose standard error is told with it. A model measured on the same facts shares
most of that error. Two things keep even a perfect learner below: it has to find out what the oracle knows, and it
cannot name a subject that has not yet been seen. Entities that happen never to take part count as candidates here.
"""

from dataclasses import dataclass

import numpy as np

from gam_kg.data.synthetic import NOTHING, GroupFacts, RelationFacts, place_in_series

ROLES = ("recurrent", "periodic", "chained_lead", "chained_follow", "random")
"""What optima are told apart by: the patterns, and the two relations of a chain."""

_FIELDS = ("facts", "object", "subject", "object_squared", "subject_squared", "both_squared")
_EXPECTING, _UNDECIDED, _OTHER = range(3)


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
    def of(cls, made: GroupFacts, num_snapshots: int) -> "Optimum":
        """Of the facts of a group."""
        found = cls.empty(num_snapshots)
        for place, facts in enumerate(made.facts):
            objects, subjects = object_reciprocals(made, place), subject_reciprocals(made, place)
            both = (objects + subjects) / 2
            values = (np.ones(len(facts)), objects, subjects, objects**2, subjects**2, both**2)
            role = ROLES.index(_role(made.group.pattern, place))
            sums = [np.bincount(facts.time, weights=value, minlength=num_snapshots) for value in values]
            found.sums[role] += np.stack(sums, 1)
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


def object_reciprocals(made: GroupFacts, place: int) -> np.ndarray:
    """1 / rank of the object of each fact.

    Args:
        made: The facts of a group.
        place: Which of its relations.

    Returns:
        float64 (num_facts,).
    """
    facts = made.facts[place]
    better = made.popularity.num_before(facts.object, facts.time)
    predicted = facts.predicted != NOTHING
    # The predicted object moves to the front; entities are numbered by popularity.
    moved = predicted & (facts.predicted > facts.object)
    return 1 / np.where(facts.predicted == facts.object, 1, 1 + better + moved)


def subject_reciprocals(made: GroupFacts, place: int) -> np.ndarray:
    """Mean of 1 / rank of the subject of each fact over the orders within its tier, without the other answers.

    Args:
        made: The facts of a group.
        place: Which of its relations.

    Returns:
        float64 (num_facts,).
    """
    facts = made.facts[place]
    sizes = _tiers_of_followers(facts) if place else _tiers_of_series(made)
    tier = np.where(facts.predicted == NOTHING, _UNDECIDED, _OTHER)
    tier[facts.predicted == facts.object] = _EXPECTING
    _, query = np.unique(facts.object * _stride(facts) + facts.time, return_inverse=True)
    count = np.bincount(query * 3 + tier, minlength=3 * (query.max(initial=-1) + 1))
    wrong = sizes - count.reshape(-1, 3)[query].T  # candidates that are no answers
    above = np.where(tier == _EXPECTING, 0, wrong[_EXPECTING] + np.where(tier == _OTHER, wrong[_UNDECIDED], 0))
    among = wrong[tier, np.arange(len(tier))] + 1
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, (above + among).max(initial=0) + 1))])
    return (harmonic[above + among] - harmonic[above]) / among


def _tiers_of_series(made: GroupFacts) -> np.ndarray:
    """Sizes of the tiers of each fact of a group's first relation, int64 (3, num_facts)."""
    facts, period = made.facts[0], made.group.period
    present = np.searchsorted(np.sort(made.born), facts.time, side="right")
    if not period:
        return np.stack([np.zeros_like(present), present, np.zeros_like(present)])
    stride = _stride(facts)
    place = place_in_series(facts.subject)
    # Every fact but the first few of a series makes it expect an object, until its next fact.
    since = np.flatnonzero(place >= period - 1)
    until = np.flatnonzero(place >= period)
    expected = facts.object[since - (period - 1)] * stride + facts.time[since]
    no_longer = facts.predicted[until] * stride + facts.time[until]
    expecting = _num_earlier(expected, facts, stride) - _num_earlier(no_longer, facts, stride)
    decided = np.searchsorted(np.sort(facts.time[place == period - 1]), facts.time)
    return np.stack([expecting, present - decided, decided - expecting])


def _num_earlier(keys: np.ndarray, facts: RelationFacts, stride: int) -> np.ndarray:
    """How many keys (object * stride + time) have the object of each fact and an earlier time."""
    keys, base = np.sort(keys), facts.object * stride
    return np.searchsorted(keys, base + facts.time) - np.searchsorted(keys, base)


def _tiers_of_followers(follows: RelationFacts) -> np.ndarray:
    """Sizes of the tiers of each follow, int64 (3, num_facts): they speak all that may."""
    stride = _stride(follows)
    known = follows.predicted != NOTHING
    keys = np.sort((follows.predicted * stride + follows.time)[known])
    wanted = follows.object * stride + follows.time
    expecting = np.searchsorted(keys, wanted, side="right") - np.searchsorted(keys, wanted)
    undecided = np.bincount(follows.time[~known], minlength=stride)[follows.time]
    decided = np.bincount(follows.time[known], minlength=stride)[follows.time]
    return np.stack([expecting, undecided, decided - expecting])


def _stride(facts: RelationFacts) -> int:
    """More than any time, so that entity * stride + time tells both."""
    return int(facts.time.max(initial=0)) + 1


def _role(pattern: str, place: int) -> str:
    return pattern if pattern != "chained" else ("chained_lead", "chained_follow")[place]


def _means(row: np.ndarray) -> dict[str, float]:
    num_facts, objects, subjects, *squares = row.tolist()
    means = {"object": objects / num_facts, "subject": subjects / num_facts}
    means["both"] = (means["object"] + means["subject"]) / 2
    found: dict[str, float] = {"facts": int(num_facts)}
    for name, squared in zip(("object", "subject", "both"), squares, strict=True):
        variance = max(0.0, squared / num_facts - means[name] ** 2)
        found |= {name: means[name], f"{name}_error": (variance / num_facts) ** 0.5}
    return found
