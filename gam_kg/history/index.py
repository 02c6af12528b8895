"""The history index: past facts by subject, by query and by relation, when last seen and how often; and rules."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.errors import DataError
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.confidence import UNSEEN, shared_rules
from gam_kg.history.found import Bodies, Found, Heads, Hops, PastAnswers, QueryGroups, SubjectPast
from gam_kg.history.pair_rules import PairRules
from gam_kg.history.path_ends import path_ends
from gam_kg.history.recency import KeyTable, RecencyIndex, Recent, reaches, thresholds
from gam_kg.history.rule_keys import stored_rules
from gam_kg.history.rules import FEWEST_HITS, RuleTable
from gam_kg.history.stored import StoredHistory
from gam_kg.history.turns import Turns
from gam_kg.ops.ragged import join_groups, last_of_each, select, unique_inverse

_MOST_KEYS = torch.iinfo(torch.int64).max


class HistoryIndex:
    """Looks up the past of queries in three `RecencyIndex`es: by subject, by (subject, relation) and by relation.

    Snapshots are inserted in time order, so a look-up sees only those inserted so far. Its memory is bounded by the
    distinct facts and rules of the rank. Candidates are given by their row in the rank's shard.

    Args:
        graph: The anchored facts, read through once for the distinct ones, and once in time order for the rules. Row
            (anchor, relation, other) means that `anchor` was an answer to (other, relation, ?), so that the owner of a
            candidate has all its history.
        config: Which parts to look up, and how far back.
        stored: What was counted of the first snapshots, after which the index then starts. Where rules with few hits
            are not stored, those that get enough later are counted from there on. None: it starts before the first.

    Attributes:
        end: The snapshot after the last one that was inserted.
        num_rows: Rows of the shard, at least 1.
        num_relations: Relations with inverses.
        rules: Counts of rules; None where they are switched off.

    Raises:
        DataError: Entities and relations are too many for keys of 64 bits.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig, stored: StoredHistory | None = None) -> None:
        self.config, self.partition = config, graph.partition
        self.end, self.num_relations, self.num_entities = 0, 2 * graph.num_relations, graph.num_entities
        facts_of = graph.num_entities * self.num_relations
        of_rules = facts_of**2 if config.rule_bodies else 0, "rules", "set model.history.rule_bodies=0, or "
        for most, what, instead in ((facts_of * graph.num_entities, "facts", ""), of_rules):
            if most >= _MOST_KEYS:
                raise DataError(
                    f"{graph.num_entities} entities with {graph.num_relations} relations are too many {what} to number "
                    f"in 64 bits; {instead}leave out rare relations"
                )
        ids, num_rows = graph.partition.ids, max(1, graph.partition.num_rows)
        self.num_rows = num_rows
        self._newest: tuple[Snapshot, Tensor] | None = None
        self._found: SubjectPast | None = None
        self._fact_tie = lambda item: graph.fact_tie(item // num_rows, ids[item % num_rows])
        self._answer_tie = lambda item: graph.answer_tie(ids[item])
        key_of = {
            "facts": lambda rows: self._fact_key(rows.other, rows.relation, rows.anchor),
            "answers": lambda rows: self._answer_key(rows.relation, rows.anchor),
        }
        self.facts, self.answers = (
            KeyTable(graph.distinct(key) if stored is None else stored.distinct(self, graph, name, key))
            for name, key in key_of.items()
        )
        self.by_subject = RecencyIndex(self.facts, self.num_relations * num_rows, self._fact_tie)
        self.by_query = RecencyIndex(self.facts, num_rows, self._answer_tie)
        self.by_relation = RecencyIndex(self.answers, num_rows, self._answer_tie)
        self.turns = Turns(self.facts, self.answers, self.num_relations, num_rows)
        self.pair_rules: PairRules | None = None
        self.rules: RuleTable | None = None
        if config.rule_confidence:
            self.pair_rules = PairRules(self)
        if stored is not None:
            stored.restore(self)
        elif config.rule_bodies:
            # A look-up needs as many hits so far as every stored rule has in the end, so other rules are never found.
            # What is stored says nothing else of the future but that number, where there are more than `max_rules`.
            keys, fewest = stored_rules(lambda: self._rule_keys(graph), config, self.partition, self.sum)
            self.reset()
            self.rules = RuleTable(keys, num_rows, fewest)

    def reset(self) -> None:
        """Go back to before the first snapshot."""
        self.end, self._newest, self._found = 0, None, None
        for part in (self.facts, self.answers, self.by_subject, self.by_query, self.by_relation, self.turns):
            part.clear()
        if self.pair_rules is not None:
            self.pair_rules.clear()
        if self.rules is not None:
            self.rules.clear()

    def insert(self, snapshot: Snapshot) -> None:
        """Insert a snapshot. A collective.

        Raises:
            ValueError: It is not later than those before.
        """
        if snapshot.time < self.end:
            raise ValueError(f"snapshot {snapshot.time} is inserted after snapshot {self.end - 1}")
        if self.pair_rules is not None and self.config.recent:
            groups = QueryGroups.of(snapshot.queries)
            self.pair_rules.observe(groups, self._past_of(groups.subjects).recent)
        if self.rules is not None:
            self.rules.insert(*self._counted(snapshot.queries))
        places = self._insert_facts(snapshot)
        self.by_query.insert(places)
        self.turns.insert(snapshot.queries, places)
        places = self.answers.places(self._answer_key(snapshot.relation, snapshot.anchor))
        self.answers.insert(places, snapshot.time)
        self.by_relation.insert(places)

    def _insert_facts(self, snapshot: Snapshot) -> Tensor:
        """Insert the facts of a snapshot by subject, which is all that rules need; returns their `fact_places`."""
        self.end, self._found = snapshot.time + 1, None
        places = self.fact_places(snapshot)
        self.facts.insert(places, snapshot.time)
        self.by_subject.insert(places)
        return places

    def fact_places(self, snapshot: Snapshot) -> Tensor:
        """Places of a snapshot's distinct facts in `facts`, ascending, int64 (num_distinct,)."""
        # Baselines need the same places just before they are inserted.
        if self._newest is None or self._newest[0] is not snapshot:
            key = self._fact_key(snapshot.other, snapshot.relation, snapshot.anchor)
            self._newest = snapshot, self.facts.places(key)
        return self._newest[1]

    def find(self, queries: Queries) -> Found:
        """Find the past facts of the subjects and relations of queries.

        Args:
            queries: The queries; recency is counted back from `Queries.now`.

        Raises:
            ValueError: A snapshot that the queries must not see was inserted already.
        """
        if queries.now < self.end:
            raise ValueError(f"queries see snapshots before {queries.now}, and {self.end - 1} is already inserted")
        groups, config = QueryGroups.of(queries), self.config
        subjects, num_first = groups.subjects, config.two_hop_first if config.two_hop_second else 0
        recent, same_relation, popular, bodies, first = self.recent(
            (self.by_subject, subjects, config.recent),
            (self.by_query, self.query_key(queries), config.same_relation),
            (self.by_relation, groups.relations, config.popular),
            (self.by_subject, subjects, config.rule_bodies),
            (self.by_subject, subjects, num_first),
        )
        hops = of_rules = None
        if num_first or config.rule_bodies:
            hops, of_rules = self._hops(first, bodies)
        self._found = SubjectPast(subjects, recent, of_rules)
        second = path_ends(self, hops.neighbours) if num_first and hops is not None else None
        popular, hops = popular if config.popular else None, hops if num_first else None
        answers = PastAnswers.of(same_relation, len(queries), self.sum, self.max)
        rules = every_rule = pair_rules = None
        if self.pair_rules is not None:
            pair_rules = self.pair_rules.confidences(groups, recent, UNSEEN)
        if self.rules is not None:
            bodies = self.bodies(queries)
            heads = self.heads(bodies, 1 if config.rule_confidence else FEWEST_HITS)
            if config.rule_heads:
                frequent_heads = heads.where(heads.hits >= FEWEST_HITS)
                rules = bodies, self.most_frequent(bodies, frequent_heads, config.rule_heads)
            if config.rule_confidence:
                every_rule = shared_rules(bodies, heads, self.num_rows)
        return Found(
            *(groups, self.num_rows, self._own_row(subjects), recent, same_relation, answers),
            *(hops, second, popular, rules, every_rule, pair_rules),
        )

    def recent(self, *requests: tuple[RecencyIndex, Tensor, int]) -> list[Recent]:
        """Answer each request (index, groups, limit) with the shard's `limit` most recent items per group."""
        found: list[Recent] = []
        for index, groups, limit in requests:
            wider = [
                one.where(last_of_each(one.row, len(groups), limit))
                for one, (other, same, most) in zip(found, requests, strict=False)
                if other is index and same is groups and most >= limit
            ]
            found.append(wider[0] if wider else index.recent(groups, limit))
        return found

    def bodies(self, queries: Queries) -> Bodies:
        """The bodies of the rules of queries, alike on all ranks. A collective.

        Raises:
            ValueError: Rules are switched off.
        """
        if not self.config.rule_bodies:
            raise ValueError("rules are switched off, as model.history.rule_bodies=0")
        subjects, of_subject = unique_inverse(queries.subject)
        facts = self._past_of(subjects).bodies
        assert facts is not None
        query, fact = join_groups(facts.row, len(subjects), of_subject)
        entity = facts.neighbours.index_select(0, facts.of_neighbour)
        body = facts.relation * self.num_entities + entity
        group = body.index_select(0, fact) * self.num_relations + queries.relation.index_select(0, query)
        return Bodies(facts, self._own_row(entity), query, fact, group)

    def heads(self, bodies: Bodies, fewest: int) -> Heads:
        """The answers of the shard to which the rules with some bodies have led, by position of the body.

        Args:
            bodies: The bodies.
            fewest: Hits of a rule, at least; never less than those that a stored rule has in the end.
        """
        assert self.rules is not None
        return self.rules.heads(bodies.group, fewest)

    def most_frequent(self, bodies: Bodies, heads: Heads, limit: int) -> Heads:
        """The answers of each body, of all shards, with the most hits, and at last by `answer_tie`. A collective.

        Args:
            bodies: The bodies.
            heads: Their answers.
            limit: Answers of a body, at most.
        """
        items = torch.stack([heads.row, heads.hits, self._answer_tie(heads.item), torch.zeros_like(heads.row)], 1)
        return heads.where(self.among_first(items, torch.full_like(bodies.group, limit)))

    def among_first(self, items: Tensor, limit: Tensor) -> Tensor:
        """Which items reach the threshold of their group over all shards, bool (num_items,); see `thresholds`."""
        return reaches(items, thresholds(items, limit))

    def times_seen(self, subject: Tensor, relation: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """In how many past snapshots facts were seen, and in which of them last (-1: never), int64 (num_facts,) each.

        Args:
            subject: int64 (num_facts,).
            relation: int64 (num_facts,), also inverse ones.
            row: Rows of the objects in the shard, int64 (num_facts,).
        """
        place, known = self.by_query.find(subject * self.num_relations + relation, row)
        if not len(self.facts.keys):
            return place, torch.full_like(place, -1)
        count, last = self.facts.count[place].long(), self.facts.last[place]
        return torch.where(known, count, 0), torch.where(known, last, -1)

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the shards; in place, and returned."""
        return value

    def max(self, value: Tensor) -> Tensor:
        """Maximum over the shards; in place, and returned."""
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all shards, one shard after another."""
        return rows

    def query_key(self, queries: Queries) -> Tensor:
        """Group of each query in `by_query`, int64 (num_queries,)."""
        return queries.subject * self.num_relations + queries.relation

    def _own_row(self, entity: Tensor) -> Tensor:
        return torch.where(self.partition.owns(entity), self.partition.rows(entity), -1)

    def _fact_key(self, subject: Tensor, relation: Tensor, answer: Tensor) -> Tensor:
        return (subject * self.num_relations + relation) * self.num_rows + self.partition.rows(answer)

    def _answer_key(self, relation: Tensor, answer: Tensor) -> Tensor:
        return relation * self.num_rows + self.partition.rows(answer)

    def _past_of(self, subjects: Tensor) -> SubjectPast:
        """What inserting the queries of subjects reads, int64 (num_subjects,); looked up if it was not just found."""
        if self._found is None or not torch.equal(self._found.subjects, subjects):
            limit = self.config.recent if self.pair_rules is not None else 0
            recent, bodies = self.recent(
                (self.by_subject, subjects, limit), (self.by_subject, subjects, self.config.rule_bodies)
            )
            hops = self._hops(bodies)[0] if self.config.rule_bodies else None
            self._found = SubjectPast(subjects, recent, hops)
        return self._found

    def _hops(self, *found: Recent) -> list[Hops]:
        """First facts of all ranks, from those whose neighbours are in the shard; one of `found` has all the others."""
        longest = max(found, key=lambda one: len(one.row))
        relation, neighbour = longest.item // self.num_rows, self.partition.ids[longest.item % self.num_rows]
        every = torch.ones_like(longest.row)
        of_found = [every if one is longest else torch.isin(longest.place, one.place) for one in found]
        rows = self.gather(torch.stack([longest.row, relation, longest.last, neighbour, *of_found], 1))
        return Hops.of_each(rows)

    def _snapshots(self, graph: TemporalGraph) -> Iterator[Snapshot]:
        """All snapshots of the graph, with the queries of all ranks. A collective."""
        return graph.read(graph.times)

    def _rule_keys(self, graph: TemporalGraph) -> Iterator[Tensor]:
        """Keys of the rules of each snapshot; facts are inserted on the way. A collective."""
        self.reset()
        for snapshot in self._snapshots(graph):
            yield self._counted(snapshot.queries)[1]
            self._insert_facts(snapshot)

    def _counted(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """The groups and the keys by which queries count, see `RuleTable.insert`."""
        bodies, own = self.bodies(queries), self.partition.owns(queries.answer)
        answer_query, answer = select(own, queries.answer_query, self.partition.rows(queries.answer))
        body, answered = join_groups(answer_query, len(queries), bodies.query)
        row = answer.index_select(0, answered)
        return bodies.group, bodies.group.index_select(0, body) * self.num_rows + row
