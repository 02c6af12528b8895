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
from gam_kg.history.past_facts import PastFacts
from gam_kg.history.path_ends import path_ends
from gam_kg.history.recency import RecencyIndex, Recent
from gam_kg.history.rule_keys import stored_rules
from gam_kg.history.rules import FEWEST_HITS, RuleTable
from gam_kg.history.stored import StoredHistory
from gam_kg.ops.ragged import join_groups, last_of_each, select, unique_inverse

_MOST_KEYS = torch.iinfo(torch.int64).max


class HistoryIndex(PastFacts):
    """Looks up the past of queries: facts by subject, by (subject, relation) and by relation; and rules.

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
        config: Which parts to look up, and how far back.
        pair_rules: Counts of rules of pairs; None where `rule_confidence` is off.
        rules: Counts of rules; None where they are switched off.

    Raises:
        DataError: Entities and relations are too many for keys of 64 bits.
    """

    def __init__(self, graph: TemporalGraph, config: HistoryConfig, stored: StoredHistory | None = None) -> None:
        self.config = config
        facts_of = graph.num_entities * 2 * graph.num_relations
        of_rules = facts_of**2 if config.rule_bodies else 0, "rules", "set model.history.rule_bodies=0, or "
        for most, what, instead in ((facts_of * graph.num_entities, "facts", ""), of_rules):
            if most >= _MOST_KEYS:
                raise DataError(
                    f"{graph.num_entities} entities with {graph.num_relations} relations are too many {what} to number "
                    f"in 64 bits; {instead}leave out rare relations"
                )
        super().__init__(graph, stored)
        self._found: SubjectPast | None = None
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
            self.rules = RuleTable(keys, self.num_rows, fewest)

    def reset(self) -> None:
        super().reset()
        self._found = None
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
        self._found = None
        places, of_subjects = self._insert_facts(snapshot)
        self.by_query.insert(of_subjects)
        self.turns.insert(snapshot.queries, places)
        places = self.answers.places(self._answer_key(snapshot.relation, snapshot.anchor))
        self.answers.insert(places, snapshot.time)
        self.by_relation.insert(places)

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
        answered = self.look_up(self.by_query, self.query_key(queries), config.same_relation)
        answers = PastAnswers.of(answered, len(queries), self.sum)
        num_first = config.two_hop_first if config.two_hop_second else 0
        self._found, same_relation = self._past(
            groups.subjects, config.recent, num_first, (self.by_query, len(queries), answered)
        )
        recent, hops = self._found.recent, self._found.hops
        second = None if hops is None else path_ends(self, hops.neighbours)
        popular = self.popular(groups.relations, config.popular) if config.popular else None
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
            *(groups, self.num_rows, self._own_row(groups.subjects), recent, same_relation, answers),
            *(hops, second, popular, rules, every_rule, pair_rules),
        )

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
        items = torch.stack([heads.row, heads.hits, self.by_relation.tie(heads.item), torch.zeros_like(heads.row)], 1)
        return heads.where(self.among_first(items, torch.full_like(bodies.group, limit)))

    def _past_of(self, subjects: Tensor) -> SubjectPast:
        """What inserting the queries of subjects reads, int64 (num_subjects,); looked up if it was not just found."""
        if self._found is None or not torch.equal(self._found.subjects, subjects):
            (self._found,) = self._past(subjects, self.config.recent if self.pair_rules is not None else 0, 0)
        return self._found

    def _past(
        self, subjects: Tensor, num_recent: int, num_first: int, *found: tuple[RecencyIndex, int, Recent]
    ) -> tuple[SubjectPast, *tuple[Recent, ...]]:
        """The past of subjects, and what is delivered with it. A collective.

        Args:
            subjects: Distinct, ascending, int64 (num_subjects,).
            num_recent: How many of the most recent facts of each are looked up.
            num_first: How many first hops of paths.
            found: See `deliver`.
        """
        number, num_bodies = len(subjects), self.config.rule_bodies
        nearest = max(num_bodies, num_first)
        past = self.look_up(self.by_subject, subjects, max(num_recent, nearest))

        def last(facts: Recent, limit: int) -> Recent:
            return facts.where(last_of_each(facts.row, number, limit))

        recent = past if num_recent >= nearest else last(past, num_recent)
        near, recent, *others = self.deliver(
            (None, number, last(past, nearest)), (self.by_subject, number, recent), *found
        )
        bodies, hops = (self._hops(last(near, limit)) if limit else None for limit in (num_bodies, num_first))
        return SubjectPast(subjects, recent, bodies, hops), *others

    def _hops(self, facts: Recent) -> Hops:
        neighbour = self.entity(facts.item % self.width)
        return Hops(facts.row, facts.item // self.width, facts.last, *unique_inverse(neighbour))

    def _snapshots(self, graph: TemporalGraph) -> Iterator[Snapshot]:
        """All snapshots of the graph, with the queries of all ranks. A collective."""
        return graph.read(graph.times)

    def _rule_keys(self, graph: TemporalGraph) -> Iterator[Tensor]:
        """Keys of the rules of each snapshot; facts are inserted on the way. A collective."""
        self.reset()
        for snapshot in self._snapshots(graph):
            yield self._counted(snapshot.queries)[1]
            self._found = None
            self._insert_facts(snapshot)

    def _counted(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """The groups and the keys by which queries count, see `RuleTable.insert`."""
        bodies, own = self.bodies(queries), self.partition.owns(queries.answer)
        answer_query, answer = select(own, queries.answer_query, self.partition.rows(queries.answer))
        body, answered = join_groups(answer_query, len(queries), bodies.query)
        row = answer.index_select(0, answered)
        return bodies.group, bodies.group.index_select(0, body) * self.num_rows + row
