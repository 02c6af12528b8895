"""The history index: past facts by subject, by query and by relation, when last seen and how often; and rules."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from gam_kg.config import HistoryConfig
from gam_kg.errors import DataError
from gam_kg.graph.snapshot import Queries, Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.history.confidence import UNSEEN, shared_rules
from gam_kg.history.found import Bodies, Found, Heads, Hops, QueryGroups
from gam_kg.history.pair_rules import PairRules
from gam_kg.history.recency import KeyTable, RecencyIndex, Recent, reaches, thresholds
from gam_kg.history.rules import FEWEST_HITS, RuleTable, frequent
from gam_kg.ops.ragged import join_groups, last_of_each, select, sort_with_positions, unique_inverse

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

    Attributes:
        end: The snapshot after the last one that was inserted.
        num_rows: Rows of the shard, at least 1.
        num_relations: Relations with inverses.
        rules: Counts of rules; None where they are switched off.

    Raises:
        DataError: Entities and relations are too many for keys of 64 bits.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig) -> None:
        self.config, self.partition = config, graph.partition
        self.end, self.num_relations, self.num_entities = 0, 2 * graph.num_relations, graph.num_entities
        if graph.num_entities**2 * self.num_relations >= _MOST_KEYS:
            raise DataError(
                f"{graph.num_entities} entities with {graph.num_relations} relations are too many facts to number "
                "in 64 bits; leave out rare relations"
            )
        if config.rule_bodies and (graph.num_entities * self.num_relations) ** 2 >= _MOST_KEYS:
            raise DataError(
                f"{graph.num_entities} entities with {graph.num_relations} relations are too many rules to number in "
                "64 bits; set model.history.rule_bodies=0, or leave out rare relations"
            )
        ids, num_rows = graph.partition.ids, max(1, graph.partition.num_rows)
        self.num_rows = num_rows
        self._newest: tuple[Snapshot, Tensor] | None = None

        def fact_tie(item: Tensor) -> Tensor:
            return graph.fact_tie(item // num_rows, ids[item % num_rows])

        def answer_tie(item: Tensor) -> Tensor:
            return graph.answer_tie(ids[item])

        self._answer_tie = answer_tie

        self.facts = KeyTable(graph.distinct(lambda rows: self._fact_key(rows.other, rows.relation, rows.anchor)))
        self.answers = KeyTable(graph.distinct(lambda rows: self._answer_key(rows.relation, rows.anchor)))
        self.by_subject = RecencyIndex(self.facts, self.num_relations * num_rows, fact_tie)
        self.by_query = RecencyIndex(self.facts, num_rows, answer_tie)
        self.by_relation = RecencyIndex(self.answers, num_rows, answer_tie)
        self._pair_rules = PairRules(self) if config.rule_confidence else None
        self.rules: RuleTable | None = None
        self._newest_bodies: tuple[int, Tensor, Hops] | None = None
        if config.rule_bodies:
            # A look-up needs at least `rule_count` hits so far, so the rules without that many in the end are never
            # found. Which ones are stored says nothing else of the future.
            keys = frequent(self._rule_keys(self._snapshots(graph)), config.rule_count)
            self.reset()
            self.rules = RuleTable(keys, num_rows)

    def reset(self) -> None:
        """Go back to before the first snapshot."""
        self.end, self._newest, self._newest_bodies = 0, None, None
        for part in (self.facts, self.answers, self.by_subject, self.by_query, self.by_relation):
            part.clear()
        if self._pair_rules is not None:
            self._pair_rules.clear()
        if self.rules is not None:
            self.rules.clear()

    def insert(self, snapshot: Snapshot) -> None:
        """Insert a snapshot. A collective.

        Raises:
            ValueError: It is not later than those before.
        """
        if snapshot.time < self.end:
            raise ValueError(f"snapshot {snapshot.time} is inserted after snapshot {self.end - 1}")
        if self._pair_rules is not None and self.config.recent:
            groups = QueryGroups.of(snapshot.queries)
            (recent,) = self.recent((self.by_subject, groups.subjects, self.config.recent))
            self._pair_rules.observe(groups, recent)
        if self.rules is not None:
            self.rules.insert(*self._counted(snapshot.queries))
        self._insert_facts(snapshot)

    def _insert_facts(self, snapshot: Snapshot) -> None:
        self.end = snapshot.time + 1
        places = self.fact_places(snapshot)
        self.facts.insert(places, snapshot.time)
        self.by_subject.insert(places)
        self.by_query.insert(places)
        places = self.answers.places(self._answer_key(snapshot.relation, snapshot.anchor))
        self.answers.insert(places, snapshot.time)
        self.by_relation.insert(places)

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
        hops = second = None
        if num_first or config.rule_bodies:
            hops, of_rules = self._hops(first, bodies)
            self._newest_bodies = self.end, subjects, of_rules
        if num_first:
            assert hops is not None
            (second,) = self.recent((self.by_subject, hops.neighbours, config.two_hop_second))
        own_row = torch.where(self.partition.owns(subjects), self.partition.rows(subjects), -1)
        popular = popular if config.popular else None
        hops = hops if num_first else None
        last, count = torch.full((len(queries),), -1), torch.zeros(len(queries), dtype=torch.int64)
        last = self.max(last.scatter_reduce_(0, same_relation.row, same_relation.last, "amax"))
        count = self.sum(count.index_add_(0, same_relation.row, same_relation.count))
        rules = every_rule = pair_rules = None
        if self._pair_rules is not None:
            pair_rules = self._pair_rules.confidences(groups, recent, UNSEEN)
        if self.rules is not None:
            bodies = self.bodies(queries)
            if config.rule_heads:
                rules = bodies, self.heads(bodies, limit=config.rule_heads)
            if config.rule_confidence:
                every_rule = shared_rules(bodies, self.heads(bodies, fewest=1), self.num_rows)
        return Found(
            *(groups, self.num_rows, own_row, recent, same_relation, last, count),
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
        """The bodies of the rules of queries, alike on all ranks. A collective."""
        subjects, of_subject = unique_inverse(queries.subject)
        newest = self._newest_bodies
        if newest is None or newest[0] != self.end or not torch.equal(newest[1], subjects):
            (bodies,) = self.recent((self.by_subject, subjects, self.config.rule_bodies))
            newest = self._newest_bodies = self.end, subjects, self._hops(bodies, bodies)[1]
        facts = newest[2]
        query, fact = join_groups(facts.row, len(subjects), of_subject)
        entity = facts.neighbours.index_select(0, facts.of_neighbour)
        own_row = torch.where(self.partition.owns(entity), self.partition.rows(entity), -1)
        body = facts.relation * self.num_entities + entity
        group = body.index_select(0, fact) * self.num_relations + queries.relation.index_select(0, query)
        return Bodies(facts, own_row, query, fact, group)

    def heads(self, bodies: Bodies, fewest: int = FEWEST_HITS, limit: int | None = None) -> Heads:
        """The answers of the shard to which the rules with some bodies have led, by position of the body.

        A collective, if there is a limit.

        Args:
            bodies: The bodies.
            fewest: Hits of a rule, at least; never less than those that a stored rule has in the end.
            limit: Answers of a rule, of all shards: those with the most hits, at last by `answer_tie`; None for all.

        Raises:
            ValueError: Rules are switched off.
        """
        if self.rules is None:
            raise ValueError("rules are switched off, as model.history.rule_bodies=0")
        heads = self.rules.heads(bodies.group, max(fewest, self.config.rule_count))
        if limit is None:
            return heads
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

    def _fact_key(self, subject: Tensor, relation: Tensor, answer: Tensor) -> Tensor:
        return (subject * self.num_relations + relation) * self.num_rows + self.partition.rows(answer)

    def _answer_key(self, relation: Tensor, answer: Tensor) -> Tensor:
        return relation * self.num_rows + self.partition.rows(answer)

    def _hops(self, *found: Recent) -> list[Hops]:
        """First facts of all ranks, from those whose neighbours are in the shard; one of `found` has all the others."""
        longest = max(found, key=lambda one: len(one.row))
        relation, neighbour = longest.item // self.num_rows, self.partition.ids[longest.item % self.num_rows]
        of_found = [torch.isin(longest.place, one.place) for one in found]
        rows = self.gather(torch.stack([longest.row, relation, longest.last, neighbour, *of_found], 1))
        row, order = sort_with_positions(rows[:, 0].contiguous())
        columns = row, *rows.index_select(0, order)[:, 1:].T.contiguous()
        hops = []
        for of_one in columns[4:]:
            row, relation, last, neighbour = select(of_one > 0, *columns[:4])
            hops.append(Hops(row, relation, last, *unique_inverse(neighbour)))
        return hops

    def _snapshots(self, graph: TemporalGraph) -> Iterator[Snapshot]:
        """All snapshots of the graph, with the queries of all ranks. A collective."""
        return graph.read(graph.times)

    def _rule_keys(self, snapshots: Iterable[Snapshot]) -> Iterator[Tensor]:
        """Keys of the rules of each snapshot; facts are inserted on the way."""
        for snapshot in snapshots:
            yield self._counted(snapshot.queries)[1]
            self._insert_facts(snapshot)

    def _counted(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """The groups and the keys by which queries count, see `RuleTable.insert`."""
        bodies, own = self.bodies(queries), self.partition.owns(queries.answer)
        answer_query, answer = select(own, queries.answer_query, self.partition.rows(queries.answer))
        body, answered = join_groups(answer_query, len(queries), bodies.query)
        row = answer.index_select(0, answered)
        return bodies.group, bodies.group.index_select(0, body) * self.num_rows + row
