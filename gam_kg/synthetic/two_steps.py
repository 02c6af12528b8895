"""As `multi_step`, of the follows of a chain: their leads are hidden, except those of the last visible snapshot.

The fact (s, follow, ?, t) has a lead (s, lead, b, t - 1), and its predicted object is that of b's last lead before t.
"""

from collections.abc import Iterator

import numpy as np

from gam_kg.synthetic import single_step
from gam_kg.synthetic.generator import NOTHING
from gam_kg.synthetic.multi_step import Cut
from gam_kg.synthetic.single_step import mean_reciprocal

_CELLS = 2_000_000  # scores at once


def object_reciprocals(cut: Cut) -> np.ndarray:
    """1 / rank of the object of each follow in [start, stop), float64 (num_facts,)."""
    follows, law = cut.generated.facts[1], _Law(cut)
    here = (follows.time >= cut.start) & (follows.time < cut.stop)
    found = single_step.object_reciprocals(cut.generated, 1)[here]
    subject, object = (law.places(entity[here]) for entity in (follows.subject, follows.object))
    for rows, horizon in law.blocks(follows.time[here]):
        score = law.chances(subject[rows, None], law.every, horizon)
        own = np.take_along_axis(score, object[rows, None], 1)
        found[rows] = 1 / (1 + (score > own).sum(1))
    return found


def subject_reciprocals(cut: Cut) -> np.ndarray:
    """As `object_reciprocals`, of the subject: the mean over the orders of equals, without the other answers."""
    follows, law = cut.generated.facts[1], _Law(cut)
    here = (follows.time >= cut.start) & (follows.time < cut.stop)
    found = single_step.subject_reciprocals(cut.generated, 1)[here]
    subject, object = (law.places(entity[here]) for entity in (follows.subject, follows.object))
    _, query = np.unique(np.stack([follows.time[here], object]), axis=1, return_inverse=True)
    order = np.argsort(query, kind="stable")  # answers of a query stand together
    first = np.searchsorted(query[order], query)
    stop = np.searchsorted(query[order], query, side="right")
    for rows, horizon in law.blocks(follows.time[here]):
        score = law.chances(law.every, object[rows, None], horizon)
        own = np.take_along_axis(score, subject[rows, None], 1)
        above, equal = (score > own).sum(1), (score == own).sum(1)
        for row, place in enumerate(rows):
            others = score[row, subject[order[first[place] : stop[place]]]]  # the answer itself is one of them
            above[row] -= (others > own[row]).sum()
            equal[row] -= (others == own[row]).sum()
        found[rows] = mean_reciprocal(above, equal + 1)
    return found


class _Law:
    """The probability that a follow has an object, for all subjects and objects that are there after the cut."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._entities, self._probability = cut.present
        self.every = np.arange(len(self._entities))[None]
        series = np.searchsorted(cut.generated.subjects, self._entities)
        self._last = self.places(cut.states[series, 0])
        known = self._last != NOTHING
        self._second = np.where(known, self._last[self._last], NOTHING)
        self._pointed = np.bincount(self._last[known], self._probability[known], len(self._entities))
        self._unbroken = cut.hidden @ (1 - cut.noise) ** np.arange(len(cut.hidden))  # in a number of slots

    def places(self, chosen: np.ndarray) -> np.ndarray:
        """Places of some among the entities, ascending; NOTHING for NOTHING."""
        return np.where(chosen == NOTHING, NOTHING, np.searchsorted(self._entities, chosen))

    def blocks(self, time: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Facts whose lead is hidden, some at once, and their horizons, (num_facts, 1)."""
        horizon = time - self._cut.start + 1
        later = np.flatnonzero(horizon > 1)
        for rows in np.array_split(later, -(-len(later) * len(self._entities) // _CELLS) or 1):
            yield rows, horizon[rows, None]

    def chances(self, subject: np.ndarray, object: np.ndarray, horizon: np.ndarray) -> np.ndarray:
        """Probability of an object for a follow of a subject, given by places, at a horizon above 1.

        With x and z for the objects of the last visible leads of s and b, there are these ways to an object, before
        noise: s's state is unbroken, b is x, and x's state is unbroken too; b is drawn, and its state z is unbroken; b
        is drawn and is s itself, which is then the object; or else the object is drawn.
        """
        keep, unbroken, probability = 1 - self._cut.noise, self._unbroken, self._probability
        last, second = self._last[subject], self._second[subject]
        known, itself = last != NOTHING, last == subject
        first = np.where(known, keep * unbroken[horizon - 2], 0)
        both = np.where(known, keep * unbroken[2 * horizon - 3], 0)
        fresh, drawn = unbroken[horizon - 1] - both, probability[subject]
        as_itself = (1 - first) * drawn + np.where(itself, first, 0)
        onward = np.where(~itself & (second != NOTHING), both, 0)
        found = fresh * (self._pointed[object] - np.where(last == object, drawn, 0))
        found = found + np.where(object == subject, as_itself, 0) + np.where(object == second, onward, 0)
        total = fresh * (self._pointed.sum() - np.where(known, drawn, 0)) + as_itself + onward
        return keep * found + (1 - keep * total) * probability[object]
