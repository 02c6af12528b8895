"""The ranks that the best predictor gives to answers when it sees only the facts before a cut; `optimum` says why.

This is for the first relation of a group, whose series do not depend on each other; `two_steps` has the follows.

The *states* of a series are its last objects: as many as the pattern has turns. A fact at horizon h has the object y
with a probability in proportion to

    sum over turns j of [state j = y] * mass[h, j]  +  popularity(y) * (top[h] - sum over known states j of loss[h, j])

where mass is the probability that it is the turn's turn and no hidden fact of the turn broke the pattern. The rest are
draws by popularity after the cut. For persistent relations, mass and rest are those of having a fact with the object.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gam_kg.synthetic.generator import NOTHING, GroupFacts
from gam_kg.synthetic.single_step import mean_reciprocal

_HORIZONS = 500  # that have a figure, so that time and memory are bounded


@dataclass(frozen=True)
class Cut:
    """A group of which only the snapshots before `start` are visible.

    Attributes:
        generated: The group.
        start: First snapshot that cannot be seen.
        noise: Probability that a fact breaks its pattern.
        num_snapshots: Of the graph.
    """

    generated: GroupFacts
    start: int
    noise: float
    num_snapshots: int

    @property
    def stop(self) -> int:
        """Snapshot before which facts have a figure: no entity arrives between `start` and it."""
        later = [arrival for arrival in self.generated.popularity.arrivals if arrival > self.start]
        return min([*later, self.num_snapshots, self.start + _HORIZONS])

    @cached_property
    def present(self) -> tuple[np.ndarray, np.ndarray]:
        """Entities that objects are drawn from in [start, stop), ascending, and their probabilities."""
        return self.generated.popularity.present(self.start)

    def popularity(self, entity: np.ndarray) -> np.ndarray:
        """Probability that a drawn object is each entity, of the shape of `entity`."""
        entities, probability = self.present
        place = np.searchsorted(entities, entity).clip(max=len(entities) - 1)
        return np.where(entities[place] == entity, probability[place], 0)

    @cached_property
    def states(self) -> np.ndarray:
        """Objects that the next facts of each series repeat, or NOTHING where unknown; int64 (num_series, turns)."""
        facts, turns = self.generated.facts[0], max(1, self.generated.group.period)
        states = np.full((len(self.generated.subjects), turns), NOTHING)
        seen = facts.time < self.start
        if self.generated.spells:
            seen &= facts.time == self.start - 1
        elif not self.generated.group.period:
            seen[:] = False
        subject, object = facts.subject[seen], facts.object[seen]
        to_last = np.searchsorted(subject, subject, side="right") - 1 - np.arange(len(subject))
        recent = to_last < turns
        series = np.searchsorted(self.generated.subjects, subject[recent])
        states[series, turns - 1 - to_last[recent]] = object[recent]
        return states

    @property
    def left(self) -> tuple[int, int]:
        """Facts of the first relation after the cut, and slots for them."""
        start = np.maximum(self.generated.born, self.start)
        slots = np.maximum(self.generated.end - start, 0).sum()
        return int((self.generated.facts[0].time >= self.start).sum()), int(slots)

    @cached_property
    def hidden(self) -> np.ndarray:
        """Row n: probability of 0, 1, ... facts in n slots after the cut, when there is a fact in another slot.

        The facts are a random choice of the slots. float64 (num_slots + 1, num_slots + 1), for twice as many slots as
        there are horizons.
        """
        left, free = (count - 1 for count in self.left)
        number = np.arange(2 * (self.stop - self.start) + 1)
        law = np.zeros((len(number), len(number)))
        law[0, 0] = 1
        for slots in number[:-1]:
            chosen = law[slots] * np.clip((left - number) / max(free - slots, 1), 0, 1)
            law[slots + 1] = law[slots] - chosen + np.roll(chosen, 1)
        return law

    @cached_property
    def law(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """mass, loss (num_horizons, turns) and top (num_horizons,) of horizons 1, 2, ... until `stop`."""
        horizon, turns = np.arange(1, self.stop - self.start + 1), self.states.shape[1]
        if spells := self.generated.spells:
            mass, loss = spells.same(horizon), spells.begun(horizon) - spells.another(horizon)
            return mass[:, None], loss[:, None], spells.begun(horizon)
        number = np.arange(len(self.hidden))
        chance = self.hidden[horizon - 1] * (1 - self.noise) ** (number // turns + 1)
        mass = np.stack([chance[:, turn::turns].sum(1) for turn in range(turns)], 1)
        return mass, mass, np.ones(len(horizon))


def object_reciprocals(cut: Cut) -> np.ndarray:
    """1 / rank of the object of each fact of the first relation in [start, stop), float64 (num_facts,)."""
    facts = cut.generated.facts[0]
    here = (facts.time >= cut.start) & (facts.time < cut.stop)
    subject, object, row = facts.subject[here], facts.object[here], facts.time[here] - cut.start
    states = cut.states[np.searchsorted(cut.generated.subjects, subject)]
    mass, loss, top = (values[row] for values in cut.law)
    base = top - (loss * (states != NOTHING)).sum(1)
    own = (mass * (states == object[:, None])).sum(1) + base * cut.popularity(object)
    # Entities that are no state are above the answer where they are popular enough.
    with np.errstate(divide="ignore"):
        limit = np.maximum(own / base, cut.popularity(object))
    better = np.searchsorted(-cut.present[1], -limit)
    for turn in range(states.shape[1]):
        state = states[:, turn]
        counts = (state != NOTHING) & (state != object) & ~(states[:, :turn] == state[:, None]).any(1)
        value = (mass * (states == state[:, None])).sum(1) + base * cut.popularity(state)
        better += counts & (value > own)
        better -= counts & (cut.popularity(state) > limit)
    return 1 / (1 + better)


def subject_reciprocals(cut: Cut) -> np.ndarray:
    """As `object_reciprocals`, of the subject: series of the same kind are equally probable."""
    facts, states = cut.generated.facts[0], cut.states
    here = (facts.time >= cut.start) & (facts.time < cut.stop)
    object, row = facts.object[here], facts.time[here] - cut.start
    series = np.searchsorted(cut.generated.subjects, facts.subject[here])
    # The kind of a series for an object has a digit a turn, whose state is unknown (0), another (1) or the object (2).
    digit = 3 ** np.arange(states.shape[1])
    digits = np.arange(3 ** len(digit))[:, None] // digit % 3

    def kind(series: np.ndarray, object: np.ndarray) -> np.ndarray:
        known, same = states[series] != NOTHING, states[series] == object[:, None]
        return known @ digit + (known & same) @ digit

    present = np.flatnonzero(cut.generated.born <= cut.start)
    objects, place = np.unique(object, return_inverse=True)
    sizes = kind_sizes(kind, objects, present, states[present], len(digits))[place]
    mass, loss, top = (values[row] for values in cut.law)
    value = mass @ (digits == 2).T + (top[:, None] - loss @ (digits > 0).T) * cut.popularity(object)[:, None]
    return rank_kinds(kind(series, object), object * cut.num_snapshots + row, sizes, value)


def kind_sizes(
    kind: Callable[[np.ndarray, np.ndarray], np.ndarray],
    objects: np.ndarray,
    series: np.ndarray,
    related: np.ndarray,
    num_kinds: int,
) -> np.ndarray:
    """How many series are of each kind for each object.

    Args:
        kind: Series and objects, both (n,) → kinds, in [0, num_kinds).
        objects: Ascending, (num_objects,).
        series: All series that may have a fact, (num_series,).
        related: Objects for which the kind of each series may differ from what it is for NOTHING, (num_series, any).
        num_kinds: Number of kinds.

    Returns:
        int64 (num_objects, num_kinds).
    """
    usual = kind(series, np.full(len(series), NOTHING))
    holder, column = np.nonzero(np.isin(related, objects))
    pairs = np.unique(np.searchsorted(objects, related[holder, column]) * len(series) + holder)
    place, holder = np.divmod(pairs, max(1, len(series)))
    sizes = np.tile(np.bincount(usual, minlength=num_kinds), (len(objects), 1))
    np.subtract.at(sizes, (place, usual[holder]), 1)
    np.add.at(sizes, (place, kind(series[holder], objects[place])), 1)
    return sizes


def rank_kinds(kind: np.ndarray, query: np.ndarray, sizes: np.ndarray, value: np.ndarray) -> np.ndarray:
    """1 / rank of answers, the mean over the orders of equally valued candidates, without the query's other answers.

    Args:
        kind: Kind of each answer, (num_answers,).
        query: A number that answers of the same query share, (num_answers,).
        sizes: Candidates of each kind, (num_answers, num_kinds).
        value: What candidates of each kind are ranked by, (num_answers, num_kinds).
    """
    _, query = np.unique(query, return_inverse=True)
    num_kinds = value.shape[1]
    answers = np.bincount(query * num_kinds + kind, minlength=(query.max(initial=-1) + 1) * num_kinds)
    wrong = sizes - answers.reshape(-1, num_kinds)[query]
    mine = np.take_along_axis(value, kind[:, None], 1)
    return mean_reciprocal((wrong * (value > mine)).sum(1), (wrong * (value == mine)).sum(1) + 1)
