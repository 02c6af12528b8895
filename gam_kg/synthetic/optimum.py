"""The best-possible MRR on a synthetic graph, by an oracle that knows the process and all visible facts.

The protocol is that of evaluation: both directions, all entities as candidates, time-aware filter. Single-step, all
facts before t are visible; multi-step, those before a cut, and the *horizon* is the number of snapshots from the last
visible one to t: at horizon 1 the two are the same. The oracle knows the settings, the popularity, who is present when
and which series there are, but no future draw. For a query it ranks the candidates by their probability to be an
answer, the equally probable ones in any order (a tie would cost it: 1 over the mean rank is less than the mean of 1
over the ranks).

No predictor has a greater expected MRR; of the subjects of follows, see below, one may have a trifle more. An answer
gains 1 / (1 + candidates above it that are no answers); exchanging two neighbours in the order changes only what these
two gain, when one of them is an answer and the other is not, and the greater gain goes to the likelier. This needs only
that, whatever the other answers are, the likelier is the same.
An object query has one answer. The subjects that may be answers have objects that are independent of each other, in
slots whose choice favours none.

* **Object query** (s, r, ?, t): first the predicted object, with 1 - noise + noise * popularity, then the rest of the
  entities present by popularity.
* **Subject query** (?, r, o, t): three tiers of the series that may have a fact at t. First those whose predicted
  object is o; then those without a prediction, which draw o by popularity; then those with another one, which need
  noise. Nobody else can be an answer. A fact is possible for every series whose subject is present; of follows, for
  those with a lead at t - 1. Of persistent facts, the second tier is that of the series without a fact at t - 1, where
  a spell may begin; in the third, one has to end first.

At longer horizons, facts of the same series may be hidden between the cut and t. How many there are is a random choice
of slots, or follows from the law of the spells, and each may break the pattern; then the object is a draw.

* **Object query**: exact. The last objects have the probability that they are still unbroken, and popularity the rest,
  so that a popular object may be above the last one. Of follows, the lead is hidden as well: b is s's last object or a
  draw, and what b points at is its last object or a draw (`two_steps`).
* **Subject query**: exact for leads and for recurrent, persistent and random facts. The tiers are those above, by the
  last visible object: however many facts are hidden, the series of a tier are likelier than those of the next. The
  series of a periodic relation are ranked by their probability: which of its last objects are o, and the chance that it
  is their turn.
* **Subject query of follows**: the candidates by their probability, as a predictor knows it that sees no lead after the
  cut. Series that point at the same b depend on the same hidden leads, so their answers are not independent, and where
  a query has other answers, another order may gain a little more: in worlds small enough for all orders to be tried,
  nothing in most, and a share of 0.0002 at most.

One thing is neglected. Since the number of facts of a relation is fixed, other answers say a little about how many
facts the series of a candidate may have. The order of tiers does not change by it; the order within a periodic relation
and of the subjects of follows may. Who used it would gain a share of about 1 / facts after the cut, which is far below
the error given: with two facts after the cut, it is below 0.001.

Figures end where an entity arrives after the first hidden snapshot, since draws before and after it differ, and at
horizon 500. By the default division of time, no entity arrives in the test.

The figure is the mean over the generated facts, each with the mean of 1 / rank over the orders of equals: an unbiased
estimate of the expectation, given with its standard error. A model measured on the same facts shares most of that
error. Even a perfect learner stays below, for two reasons: it has to learn what the oracle knows, and it cannot name a
subject that has not been seen yet. Entities that happen never to take part count as candidates here.
"""

from dataclasses import dataclass

import numpy as np

from gam_kg.synthetic import multi_step, single_step, two_steps
from gam_kg.synthetic.generator import GroupFacts
from gam_kg.synthetic.multi_step import Cut

ROLES = ("recurrent", "persistent", "periodic", "chained_lead", "chained_follow", "random")
"""What has an optimum of its own: the patterns, and the two relations of a chain."""

_FIELDS = ("facts", "object", "subject", "object_squared", "subject_squared", "both_squared")


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
    def from_bytes(cls, sums: bytes, num_snapshots: int) -> "Optimum":
        """Of the bytes of its sums."""
        return cls(np.frombuffer(sums).reshape(len(ROLES), num_snapshots, len(_FIELDS)))

    @classmethod
    def of(cls, generated: GroupFacts, num_snapshots: int) -> "Optimum":
        """Of the facts of a group, single-step: all before a fact is visible."""
        found = cls.empty(num_snapshots)
        for index, facts in enumerate(generated.facts):
            reciprocals = [
                of(generated, index) for of in (single_step.object_reciprocals, single_step.subject_reciprocals)
            ]
            found._add(generated, index, facts.time, *reciprocals)
        return found

    @classmethod
    def after(cls, cut: Cut) -> "Optimum":
        """Of the facts of a group from a cut on, multi-step; of those of `cut.stop` and later there is no figure."""
        found = cls.empty(cut.num_snapshots)
        for index, (facts, of) in enumerate(zip(cut.generated.facts, (multi_step, two_steps), strict=False)):
            time = facts.time[(facts.time >= cut.start) & (facts.time < cut.stop)]
            found._add(cut.generated, index, time, of.object_reciprocals(cut), of.subject_reciprocals(cut))
        return found

    def _add(
        self, generated: GroupFacts, index: int, time: np.ndarray, objects: np.ndarray, subjects: np.ndarray
    ) -> None:
        both = (objects + subjects) / 2
        values = (np.ones(len(time)), objects, subjects, objects**2, subjects**2, both**2)
        sums = [np.bincount(time, weights=value, minlength=self.sums.shape[1]) for value in values]
        pattern = generated.group.pattern
        role = ("chained_lead", "chained_follow")[index] if pattern == "chained" else pattern
        self.sums[ROLES.index(role)] += np.stack(sums, 1)

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


def _means(row: np.ndarray) -> dict[str, float]:
    num_facts, objects, subjects, *squares = row.tolist()
    means = {"object": objects / num_facts, "subject": subjects / num_facts}
    means["both"] = (means["object"] + means["subject"]) / 2
    found: dict[str, float] = {"facts": int(num_facts)}
    for name, squared in zip(("object", "subject", "both"), squares, strict=True):
        variance = max(0.0, squared / num_facts - means[name] ** 2)
        found |= {name: means[name], f"{name}_error": (variance / num_facts) ** 0.5}
    return found
