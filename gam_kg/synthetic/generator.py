"""A synthetic temporal knowledge graph with power-law degrees, patterns, newcomers and noise, in independent parts.

A *series* is a subject with a relation. It has at most one fact in each snapshot.

* **When.** The facts of a relation are a uniformly random choice, of a given size, among all slots (series, snapshot)
  in which the subject is present. When a series has its next fact thus does not depend on its objects.
* **What.** Most facts have a *predicted* object, which follows from the past. With probability 1 - noise the fact has
  that object; otherwise, and where nothing is predicted, the object is drawn from those present by their popularity.

A *persistent* relation differs in both. Its series have spells: a spell has an object, drawn by popularity, and is
stated in every snapshot from its first to its last, without noise. Its length is geometric, with a mean of 3, 10 or 30
snapshots by relation; then comes a gap, which may be empty, or the next spell (`SpellLaw`). Series are drawn until they
have enough facts; of the last one, the first facts are left out, so that the number is exact.

The predicted object of a fact (s, r, ?, t) depends on the pattern of its relation:

* *recurrent*: the object of the series' last fact: a state that lasts, and changes now and then;
* *periodic*: that of its second or third last fact, by relation: two or three states in turn;
* *chained*: a lead (s, lead, b, t - 1) is followed by one fact (s, follow, ?, t), and the predicted object is that of
  b's last lead before t: two steps from s. Leads themselves are recurrent, and their objects are subjects of leads;
* *persistent*: that of (s, r, ?, t - 1), if there is such a fact;
* *random*: none.

Popularity is a power law of an entity's number. Objects are drawn by it, and the subjects of a part of the series; in
the other series every entity is a subject once. Newcomers arrive at one of thirteen times, from a quarter to 85 % of
the snapshots, and behave like the others from then on.

Groups of relations are generated one by one, each from a seed of its own: the facts are the same however the work is
divided, and memory grows with the facts of a relation, not with all.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.importers.fact_file import facts_schema
from gam_kg.synthetic.groups import Group, SyntheticConfig
from gam_kg.synthetic.spells import SpellLaw

NOTHING = -1
"""In place of a predicted object: none."""

FACTS = facts_schema({"source": "synthetic"}, {"timestamp": pa.int64()})

_WORLD, _GROUP = 0, 1  # first part of a seed's key
_ARRIVALS = np.arange(25, 86, 5)  # percent of the snapshots
_SERIES_FACTS = 20  # facts of a series, where the relation has enough for that
_MORE_SERIES = 4  # one series drawn by popularity for each so many home series


@dataclass(frozen=True)
class RelationFacts:
    """The facts of a relation, with what the past predicts for each.

    Attributes:
        relation: Name.
        subject, object, time: int64 (num_facts,), sorted by subject and time.
        predicted: Predicted object or NOTHING, int64 (num_facts,).
    """

    relation: str
    subject: np.ndarray
    object: np.ndarray
    time: np.ndarray
    predicted: np.ndarray

    def __len__(self) -> int:
        return len(self.time)

    def table(self) -> pa.Table:
        """With names, in time order, with the schema FACTS."""
        order = np.argsort(self.time, kind="stable")
        subject, object = (_entity_names(entity[order]) for entity in (self.subject, self.object))
        return pa.table([subject, [self.relation] * len(self), object, self.time[order]], schema=FACTS)


@dataclass(frozen=True)
class GroupFacts:
    """The facts of a group, and which series could have had them.

    Attributes:
        group: The group.
        subjects: Subjects of the series of its first relation, ascending, int64 (num_series,).
        born: Snapshot from which each of these subjects is present, int64 (num_series,).
        popularity: The distribution that objects are drawn from.
        facts: One for each relation of the group.
        end: Snapshot after the last in which the series of the first relation may have facts.
        spells: The law of the spells, of a persistent relation.
    """

    group: Group
    subjects: np.ndarray
    born: np.ndarray
    popularity: "Popularity"
    facts: tuple[RelationFacts, ...]
    end: int
    spells: SpellLaw | None = None


class Popularity:
    """A distribution over the entities that are present.

    Args:
        entities: Ascending, which is from the most popular to the least.
        weight: Probability of each relative to the others, (num_entities,).
        born: Snapshot from which each is present, (num_entities,).
    """

    def __init__(self, entities: np.ndarray, weight: np.ndarray, born: np.ndarray) -> None:
        self._entities, self._born, self._cumulative = entities, born, np.cumsum(weight)
        self._late = {int(arrival): np.flatnonzero(born == arrival) for arrival in np.unique(born) if arrival > 0}

    @property
    def arrivals(self) -> list[int]:
        """Snapshots after the first from which more entities are present."""
        return list(self._late)

    def draw(self, time: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """An entity for each time, present at it; int64 (num_times,)."""
        drawn, left = np.empty(len(time), np.int64), np.arange(len(time))
        while len(left):
            point = generator.random(len(left)) * self._cumulative[-1]
            found = np.searchsorted(self._cumulative, point, side="right").clip(max=len(self._entities) - 1)
            present = self._born[found] <= time[left]
            drawn[left[present]] = found[present]
            left = left[~present]
        return self._entities[drawn]

    def present(self, time: int) -> tuple[np.ndarray, np.ndarray]:
        """Entities present at a time, ascending, and their probabilities, which descend; both (num_present,)."""
        there = self._born <= time
        weight = np.diff(self._cumulative, prepend=0)[there]
        return self._entities[there], weight / weight.sum()

    def num_before(self, entity: np.ndarray, time: np.ndarray) -> np.ndarray:
        """How many of those present at a time are more popular than an entity, int64 of the shape of both."""
        rank = np.searchsorted(self._entities, entity)
        absent = sum(np.where(time < arrival, np.searchsorted(late, rank), 0) for arrival, late in self._late.items())
        return rank - absent


class World:
    """What all groups share: each entity's arrival, popularity and home. The same for the same settings."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        generator = _generator(config.seed, _WORLD)
        size = config.entities
        self.born = np.zeros(size, np.int64)
        newcomers = generator.choice(size, round(config.newcomers * size), replace=False)
        self.born[newcomers] = generator.choice(config.snapshots * _ARRIVALS // 100, len(newcomers))
        # Sizes that fall as rank^-a are distributed as size^-(1 + 1/a).
        self._weight = np.arange(1, size + 1) ** (-1 / (config.exponent - 1))
        self._shuffled = generator.permutation(size)
        self._popularity = Popularity(np.arange(size), self._weight, self.born)

    def generate(self, group: Group) -> GroupFacts:
        """The facts of a group."""
        generator = _generator(self.config.seed, _GROUP, group.index)
        if group.pattern == "persistent":
            return self._persistent(group, generator)
        chained = group.pattern == "chained"
        end = self.config.snapshots - chained  # a lead at the last snapshot would have no follow
        order, number = self._candidates(group, end, generator)
        subjects = np.sort(order[:number])
        born, popularity = self.born[subjects], self._popularity
        if chained:
            popularity = Popularity(subjects, self._weight[subjects], born)
        facts = [self._series(group, subjects, end, popularity, generator)]
        if chained:
            facts.append(self._follows(group, facts[0], popularity, generator))
        return GroupFacts(group, subjects, born, popularity, tuple(facts), end)

    def _candidates(self, group: Group, end: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        """Possible subjects, those at home first, then others drawn by popularity; and how many the group needs.

        There are twice as many as it needs, where there are as many entities.
        """
        home = self._shuffled[slice(*group.home)]
        length = self.config.snapshots // 3 if group.spell else min(_SERIES_FACTS, self.config.snapshots // 4)
        number = max(len(home) + len(home) // _MORE_SERIES, -(-group.emissions // length), 1)
        # The smallest of exponentials with rates are a draw without replacement by those rates.
        key = generator.exponential(size=len(self._weight)) / self._weight
        key[home] = -1
        candidates = np.argpartition(key, min(2 * number, len(key)) - 1)[: 2 * number]
        candidates = candidates[np.argsort(key[candidates], kind="stable")]
        slots = np.maximum(end - self.born[candidates[:number]], 0).sum()
        return (candidates, number) if slots >= 2 * group.emissions else (np.argsort(key), len(key))

    def _persistent(self, group: Group, generator: np.random.Generator) -> GroupFacts:
        """The facts of a persistent relation: of as many series as it takes to have enough."""
        end = self.config.snapshots
        order, number = self._candidates(group, end, generator)
        law = SpellLaw.of(group.spell, group.emissions / (end - self.born[order[:number]]).sum())
        num_facts = np.zeros(1, np.int64)
        while num_facts.sum() < group.emissions:
            series, start, length = law.draw(self.born[order], end, generator)
            num_facts = np.bincount(series, length, len(order)).astype(np.int64)
        total = np.cumsum(num_facts)
        last = int(np.searchsorted(total, group.emissions))
        subjects = np.sort(order[: last + 1])
        drawn = self._popularity.draw(start, generator)
        first = np.cumsum(length) - length
        time = np.arange(total[-1]) + np.repeat(start - first, length)
        subject, object = (np.repeat(column, length) for column in (order[series], drawn))
        before = total[last] - num_facts[last]
        rows = np.delete(np.arange(total[last]), slice(before, before + total[last] - group.emissions))
        rows = rows[np.argsort(subject[rows], kind="stable")]
        subject, object, time = subject[rows], object[rows], time[rows]
        again = (np.diff(subject, prepend=NOTHING) == 0) & (np.diff(time, prepend=0) == 1)
        predicted = np.where(again, np.roll(object, 1), NOTHING)
        facts = RelationFacts(group.relations[0], subject, object, time, predicted)
        return GroupFacts(group, subjects, self.born[subjects], self._popularity, (facts,), end, law)

    def _series(
        self, group: Group, subjects: np.ndarray, end: int, popularity: Popularity, generator: np.random.Generator
    ) -> RelationFacts:
        """The facts of the group's first relation."""
        born = self.born[subjects]
        slots = np.maximum(end - born, 0)
        start = np.cumsum(slots) - slots
        chosen = np.sort(generator.choice(slots.sum(), group.emissions, replace=False, shuffle=False))
        series = np.searchsorted(start, chosen, side="right") - 1
        time = born[series] + chosen - start[series]
        drawn = popularity.draw(time, generator)
        breaks = generator.random(len(time)) < self.config.noise
        objects, predicted = _repeat(series, drawn, breaks, group.period)
        return RelationFacts(group.relations[0], subjects[series], objects, time, predicted)

    def _follows(
        self, group: Group, leads: RelationFacts, popularity: Popularity, generator: np.random.Generator
    ) -> RelationFacts:
        """One follow for each lead, a snapshot later."""
        stride, time = self.config.snapshots, leads.time + 1
        last = np.searchsorted(leads.subject * stride + leads.time, leads.object * stride + leads.time, "right") - 1
        known = (last >= 0) & (leads.subject[last] == leads.object)
        predicted = np.where(known, leads.object[last], NOTHING)
        drawn = popularity.draw(time, generator)
        breaks = generator.random(len(time)) < self.config.noise
        objects = np.where(known & ~breaks, predicted, drawn)
        return RelationFacts(group.relations[1], leads.subject, objects, time, predicted)


def position_in_series(subject: np.ndarray) -> np.ndarray:
    """How many facts of its series come before each, in facts sorted by subject and time."""
    return np.arange(len(subject)) - np.searchsorted(subject, subject)


def _entity_names(entity: np.ndarray) -> pa.Array:
    return pc.utf8_replace_slice(pa.array(entity).cast(pa.large_string()), 0, 0, "e")


def _repeat(series: np.ndarray, drawn: np.ndarray, breaks: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Objects that repeat the one `period` facts ago, except where the pattern is broken or begins: there they are new.

    Args:
        series: Ascending, (num_facts,).
        drawn: New objects, (num_facts,).
        breaks: Where the pattern is broken, (num_facts,).
        period: See `Group`.

    Returns:
        (objects, predicted objects or NOTHING), both (num_facts,).
    """
    if not period:
        return drawn, np.full_like(drawn, NOTHING)
    position = position_in_series(series)
    order = np.argsort(series * period + position % period, kind="stable")
    begins = (position < period)[order]
    # Each fact has the last new object of its turn.
    source = np.maximum.accumulate(np.where(begins | breaks[order], np.arange(len(order)), 0))
    objects, predicted = np.empty_like(drawn), np.empty_like(drawn)
    objects[order] = drawn[order][source]
    predicted[order] = np.where(begins, NOTHING, np.roll(objects[order], 1))
    return objects, predicted


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
