"""A synthetic temporal knowledge graph with power-law degrees, patterns, newcomers and noise, in independent parts.

A *series* is a subject with a relation. At each snapshot it says one fact or none, so that no fact comes twice:

* **When.** The facts of a relation are a uniformly random choice, of a given size, among all moments (series,
  snapshot) at which its subject is present. Which series speaks next thus does not depend on what it said.
* **What.** Most facts have a *predicted* object, which follows from the past. With probability 1 - noise the fact has
  that object; otherwise, and where nothing is predicted, the object is drawn from those present by their popularity.

The predicted object of a fact (s, r, ?, t) is, by the pattern of its relation:

* *recurrent*: the object of the series' last fact: a state that lasts, and changes now and then;
* *periodic*: that of its second or third last fact, by relation: two or three states that take turns;
* *chained*: a lead (s, lead, b, t - 1) is followed by one fact (s, follow, ?, t), and the predicted object is that of
  b's last lead before t: two steps from s. Leads themselves are recurrent, and their objects are subjects of leads;
* *random*: none.

Popularity is a power law of an entity's number, drawn for objects and for the subjects of a part of the series; in
the other series every entity is the subject of one. Newcomers are present from one of thirteen moments on, between a
quarter of the time and 85 % of it, and behave like the others from then on.

Groups of relations are generated one by one, each from a seed of its own, so the facts are the same however the work is
divided, and memory grows with the facts of a relation, not with all.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.data.fact_file import facts_schema
from gam_kg.data.synthetic_plan import Group, SyntheticConfig

NOTHING = -1
"""In place of a predicted object: none."""

_WORLD, _GROUP = 0, 1  # first part of a seed's key
_ARRIVALS = np.arange(25, 86, 5)  # percent of the time
_SERIES_FACTS = 20  # facts of a series, where there are enough for that
_MORE_SERIES = 4  # one drawn by popularity for each so many home series


@dataclass(frozen=True)
class RelationFacts:
    """The facts of a relation, and what the past said of each.

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
        """As names, in time order, with the schema of `facts_schema`."""
        order = np.argsort(self.time, kind="stable")
        relation = pa.repeat(pa.scalar(self.relation, pa.large_string()), len(self))
        columns = [entity_names(self.subject[order]), relation, entity_names(self.object[order]), self.time[order]]
        return pa.table(columns, schema=FACTS)


FACTS = facts_schema(pa.int64(), {"source": "synthetic"}, end=None, split=False)


@dataclass(frozen=True)
class GroupFacts:
    """The facts of a group, and who might have said them.

    Attributes:
        group: The group.
        subjects: Of the series of its first relation, ascending, int64 (num_series,).
        born: Snapshot from which each series may speak, int64 (num_series,).
        popularity: What objects are drawn by.
        facts: One for each relation of the group.
    """

    group: Group
    subjects: np.ndarray
    born: np.ndarray
    popularity: "Popularity"
    facts: tuple[RelationFacts, ...]


class Popularity:
    """Entities by how often they are drawn, among those present.

    Args:
        entities: Ascending, which is from the most popular to the least.
        weight: How often each is drawn, relative to the others, (num_entities,).
        born: Snapshot from which each is present, (num_entities,).
    """

    def __init__(self, entities: np.ndarray, weight: np.ndarray, born: np.ndarray) -> None:
        self._entities, self._born, self._cumulative = entities, born, np.cumsum(weight)
        self._late = {int(moment): np.flatnonzero(born == moment) for moment in np.unique(born) if moment > 0}

    def draw(self, time: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """An entity for each time, present at it; int64 (num_times,)."""
        place, left = np.empty(len(time), np.int64), np.arange(len(time))
        while len(left):
            point = generator.random(len(left)) * self._cumulative[-1]
            found = np.searchsorted(self._cumulative, point, side="right").clip(max=len(self._entities) - 1)
            present = self._born[found] <= time[left]
            place[left[present]] = found[present]
            left = left[~present]
        return self._entities[place]

    def num_before(self, entity: np.ndarray, time: np.ndarray) -> np.ndarray:
        """How many of those present at a time are more popular than an entity, int64 of the shape of both."""
        place = np.searchsorted(self._entities, entity)
        absent = sum(np.where(time < moment, np.searchsorted(late, place), 0) for moment, late in self._late.items())
        return place - absent


class World:
    """What all groups share: who is present when, how popular, and at home where. The same for the same settings."""

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
        chained = group.pattern == "chained"
        end = self.config.snapshots - chained  # a lead at the last snapshot would have no follow
        subjects = self._subjects(group, end, generator)
        popularity = self._popularity
        if chained:
            popularity = Popularity(subjects, self._weight[subjects], self.born[subjects])
        facts = [self._series(group, subjects, end, popularity, generator)]
        if chained:
            facts.append(self._follows(group, facts[0], popularity, generator))
        return GroupFacts(group, subjects, self.born[subjects], popularity, tuple(facts))

    def _subjects(self, group: Group, end: int, generator: np.random.Generator) -> np.ndarray:
        """Subjects of the group's series, ascending: those at home, and others drawn by popularity."""
        home = self._shuffled[slice(*group.home)]
        length = min(_SERIES_FACTS, self.config.snapshots // 4)
        number = max(len(home) + len(home) // _MORE_SERIES, -(-group.emissions // length), 1)
        # The smallest of exponentials with rates are a draw without replacement by those rates.
        order = generator.exponential(size=len(self._weight)) / self._weight
        order[home] = -1
        number = min(number, len(order))
        subjects = np.sort(np.argpartition(order, number - 1)[:number])
        moments = np.maximum(end - self.born[subjects], 0).sum()
        return subjects if moments >= 2 * group.emissions else np.arange(len(order))

    def _series(
        self,
        group: Group,
        subjects: np.ndarray,
        end: int,
        popularity: Popularity,
        generator: np.random.Generator,
    ) -> RelationFacts:
        born = self.born[subjects]
        moments = np.maximum(end - born, 0)
        start = np.cumsum(moments) - moments
        chosen = np.sort(generator.choice(moments.sum(), group.emissions, replace=False, shuffle=False))
        series = np.searchsorted(start, chosen, side="right") - 1
        time = born[series] + chosen - start[series]
        drawn = popularity.draw(time, generator)
        breaks = generator.random(len(time)) < self.config.noise
        objects, predicted = _repeat(series, drawn, breaks, group.period)
        return RelationFacts(group.relations[0], subjects[series], objects, time, predicted)

    def _follows(
        self, group: Group, leads: RelationFacts, popularity: Popularity, generator: np.random.Generator
    ) -> RelationFacts:
        """One follow a lead, a snapshot later."""
        stride, time = self.config.snapshots, leads.time + 1
        last = np.searchsorted(leads.subject * stride + leads.time, leads.object * stride + leads.time, "right") - 1
        known = (last >= 0) & (leads.subject[last] == leads.object)
        predicted = np.where(known, leads.object[last], NOTHING)
        drawn = popularity.draw(time, generator)
        breaks = generator.random(len(time)) < self.config.noise
        objects = np.where(known & ~breaks, predicted, drawn)
        return RelationFacts(group.relations[1], leads.subject, objects, time, predicted)


def place_in_series(subject: np.ndarray) -> np.ndarray:
    """How many facts of its series stand before each, in facts sorted by subject and time."""
    return np.arange(len(subject)) - np.searchsorted(subject, subject)


def entity_names(entity: np.ndarray) -> pa.Array:
    """Names of entities."""
    return pc.binary_join_element_wise(
        pa.scalar("e", pa.large_string()),
        pc.cast(pa.array(entity), pa.large_string()),
        pa.scalar("", pa.large_string()),
    )


def _repeat(series: np.ndarray, drawn: np.ndarray, breaks: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Objects that repeat the one `period` facts ago, but for breaks and beginnings, where they are drawn anew.

    Args:
        series: Ascending, (num_facts,).
        drawn: Objects drawn anew, (num_facts,).
        breaks: Where the pattern is broken, (num_facts,).
        period: How many facts of the series ago; 0 for never.

    Returns:
        (objects, predicted objects or NOTHING), both (num_facts,).
    """
    if not period:
        return drawn, np.full_like(drawn, NOTHING)
    place = place_in_series(series)
    order = np.argsort(series * period + place % period, kind="stable")
    begins = (place < period)[order]
    # Each fact takes what the last new draw of its turn brought.
    source = np.maximum.accumulate(np.where(begins | breaks[order], np.arange(len(order)), 0))
    objects, predicted = np.empty_like(drawn), np.empty_like(drawn)
    objects[order] = drawn[order][source]
    predicted[order] = np.where(begins, NOTHING, np.roll(objects[order], 1))
    return objects, predicted


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
