"""GAM_LSTM: entity rows and memory, graph attention, LSTM, decoder and history attention in one module."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gam_kg.config import ModelConfig
from gam_kg.data.look_up import SampledHistory
from gam_kg.data.names import NameWords
from gam_kg.data.partition import Partition
from gam_kg.data.past import History
from gam_kg.data.snapshot import Queries
from gam_kg.distributed.neighbourhood import Neighbourhood
from gam_kg.distributed.rows import Layout, exchange_rows, gather_rows
from gam_kg.distributed.sharded_softmax import Targets
from gam_kg.distributed.topology import Topology
from gam_kg.nn.candidates import (
    Candidates,
    Held,
    PopularAmong,
    SampledScores,
    place,
    popular_pairs,
    summed,
)
from gam_kg.nn.decoder import DECODERS
from gam_kg.nn.entity_rows import WordLinks, named_rows, own_or_shared
from gam_kg.nn.gam import GraphAttention
from gam_kg.nn.history_attention import (
    PairAttention,
    PairScores,
    PathAttention,
    PopularityScore,
    add_pair_scores,
    popular_products,
    popularity_table,
)
from gam_kg.nn.history_plan import HistoryPlan
from gam_kg.nn.links import Links, link_runs, linked_products
from gam_kg.nn.noise import Noise, normal_rows
from gam_kg.nn.recurrence import EntityLSTM, Memory
from gam_kg.nn.vectors import tapped, unit

ENTITY = "entity"
"""The parameter of which each rank has the rows of its own entities; all others are alike on all ranks."""


class GAMLSTM(nn.Module):
    """The temporal knowledge-graph model of gam-kg, as one rank has it.

    Entity v has a learned row e_v, the words of its name, and a memory; its vector before t is z_v = unit(e_v + h_v).
    Entities never trained have the learned shared row in place of e_v, which entity dropout trains.

    Args:
        config: Sizes and switches.
        num_relations: Relations without inverses.
        trained: Whether each entity has a row of its own (a fact in train), bool (num_entities,).
        words: Shared words of the entities' names; None for none.
        partition: The rank's entities; None for all.
        topology: The ranks; None for a world of one.
        seed: Of the entity rows; the other parameters start from torch's generator. None leaves them to
            weights that are loaded.
    """

    entity_id: Tensor
    trained: Tensor
    word_index: Tensor
    word_offsets: Tensor
    word_length: Tensor
    named_index: Tensor
    named_offsets: Tensor
    named_length: Tensor

    def __init__(
        self,
        config: ModelConfig,
        num_relations: int,
        trained: Tensor,
        words: NameWords | None = None,
        *,
        partition: Partition | None = None,
        topology: Topology | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        dim, num_entities = config.dim, len(trained)
        self.config = config
        self.num_relations = num_relations
        self.partition = partition or Partition(num_entities)
        self.topology = topology or Topology()
        ids = self.partition.ids
        std = (2 / (num_entities + dim)) ** 0.5  # Xavier, of the whole table
        self.entity = nn.Parameter(torch.empty(len(ids), dim))
        if seed is not None:
            self.entity.data = normal_rows(ids, dim, seed, ENTITY).mul_(std)
        self.shared = nn.Parameter(torch.randn(dim) * std)
        self.relation = nn.Parameter(nn.init.xavier_normal_(torch.empty(2 * num_relations, dim)))
        self.register_buffer("entity_id", ids.clone(), persistent=False)
        self.register_buffer("trained", trained[ids.to(trained.device)], persistent=False)
        self.word = None
        if words is not None and len(words.words):
            self.word = nn.Parameter(torch.randn(len(words.words), dim) * 0.05)
            own = words.select(ids)
            links = WordLinks.of(own.word, own.offsets)
            for side, found in (("word", links), ("named", links.turned(len(self.word)))):
                for name, value in found._asdict().items():
                    self.register_buffer(f"{side}_{name}", value, persistent=False)
        self.gam = GraphAttention(dim, config.heads, config.dropout)  # ty: ignore[abstract-class-instantiation]
        self.lstm = EntityLSTM(dim)
        self.decoder = DECODERS[config.decoder](dim, config.dropout)
        history = config.history
        self.pair_attention = PairAttention(2 * num_relations, dim, history)
        self.path_attention = PathAttention(2 * num_relations, dim, history)
        self.popularity = PopularityScore(2 * num_relations, history)

    def entity_rows(self, dropped: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """What is known of the rank's entities apart from memory: learned or shared row, plus the words of the name.

        Args:
            dropped: Which of the rows asked for get the shared row this step, bool (num_asked,).
            index: Only these rows, each once, int64 (num_asked,): the learned rows then get a sparse gradient. None for
                all.

        Returns:
            (num_rows, dim), or (num_asked, dim).
        """
        own = self.trained if index is None else self.trained.index_select(0, index)
        own = own if dropped is None else own & ~dropped
        words, named = self._word_links()
        if index is None:
            return named_rows(self.entity, self.shared, own, self.word, words, named)
        # A row that is not its own is not read, gets no gradient and does not step.
        (at,) = torch.nonzero(own, as_tuple=True)
        entity = functional.embedding(index.index_select(0, at), self.entity, sparse=True)
        entity = own_or_shared(entity, self.shared, at, len(index))
        if self.word is None or words is None:
            return entity
        words, own = words.select(index), torch.ones_like(own)
        named = words.turned(len(self.word)) if torch.is_grad_enabled() else None
        return named_rows(entity, self.shared, own, self.word, words, named)

    def _word_links(self) -> tuple[WordLinks | None, WordLinks | None]:
        if self.word is None:
            return None, None
        return (
            WordLinks(self.word_index, self.word_offsets, self.word_length),
            WordLinks(self.named_index, self.named_offsets, self.named_length),
        )

    def update(
        self, rows: Tensor, memory: Memory, neighbourhood: Neighbourhood, noise: Noise | None = None
    ) -> tuple[Tensor, Memory]:
        """Attend within a snapshot and remember it, for the rank's active entities. A collective.

        Args:
            rows: `entity_rows` of the active entities, (num_active, dim).
            memory: Memory of the active entities before the snapshot.
            neighbourhood: The facts.
            noise: Of the step; None: torch's.

        Returns:
            Attention weights (num_edges, heads) and the memory after the snapshot, of the active entities or of those
            `neighbourhood` wants.
        """
        x = unit(rows + memory.hidden)
        sent, key, wanted = self.gam.project(x), self.update_keys(neighbourhood), neighbourhood.wanted
        if wanted is not None:
            x, memory, key = x.index_select(0, wanted), memory.rows(wanted), key.index_select(0, wanted)
        told, weights = self.listen(self.gam.query(x), sent, neighbourhood)
        row_noise = None if noise is None else noise.rows(key)
        return weights, self.lstm(self.gam.answer(told, x, row_noise), memory, neighbourhood.time)

    def listen(self, query: Tensor, sent: Tensor, neighbourhood: Neighbourhood) -> tuple[Tensor, Tensor]:
        """What its edges tell the rank's active entities, and the attention weights. A collective.

        Args:
            query: `gam.query` of the active entities that are updated, (num_wanted, dim).
            sent: `gam.project` of all active entities, (num_active, 2 * dim).
            neighbourhood: The facts.
        """
        if neighbourhood.halo is not None:
            sent = torch.cat([sent, exchange_rows(sent, neighbourhood.halo, self.topology)])
        # Only the relations of this snapshot are projected: of many, few are in any one.
        relations = self.relation.index_select(0, neighbourhood.relations)
        return self.gam.listen(query, sent, neighbourhood.edges, neighbourhood.edge_type, relations)

    def update_keys(self, neighbourhood: Neighbourhood) -> Tensor:
        """Keys of the noise of an update, int64 (num_active,)."""
        return neighbourhood.entity + neighbourhood.time * self.partition.num_entities

    def scores(self, z: Tensor, queries: Queries, history: History | HistoryPlan, noise: Noise | None = None) -> Tensor:
        """Score the rank's candidates for every query; higher is better. A collective.

        Args:
            z: Vectors of the rank's entities as of the queries' time, (num_rows, dim).
            queries: The questions, alike on all ranks.
            history: What the history index found for them, or the plan of it.
            noise: Of the step; None: torch's.

        Returns:
            (num_queries, num_rows).
        """
        plan = history if isinstance(history, HistoryPlan) else HistoryPlan.of(history, queries, len(z))
        own = self._own_queries(queries)
        z, of_subject, of_end = tapped(z, self.partition.rows(own.subject), plan.ends)
        asked = self._query_vectors(of_subject, own, noise)
        if plan.popularity is None:
            dense = (asked[0] @ z.T).to(z.dtype)
        else:
            past = plan.popularity.past
            score = self.popularity(plan.popularity)
            table = popularity_table(past.row, past.other, score, len(past.relations), len(z))
            dense = popular_products(asked[0], z, table, past.query_row)
        return add_pair_scores(dense, self.history_scores(of_end, asked, plan))

    def scores_in_parts(self, z: Tensor, queries: Queries, history: History) -> tuple[Tensor, list[PairScores]]:
        """What `scores` are made of, for candidates too many to write them out. A collective.

        Returns:
            Vectors of the queries, (num_queries, dim), of which the scores are the products with z; and what is added
            to some pairs.
        """
        asked, plan = self.query_vectors(z, queries), HistoryPlan.of(history, queries, len(z))
        parts = self.history_scores(z.index_select(0, plan.ends), asked, plan)
        if plan.popularity is not None:
            parts.append(popular_pairs(plan.popularity.past, self.popularity(plan.popularity)))
        return asked[0], parts

    def sampled_scores(
        self,
        z: Tensor,
        held: Held,
        candidates: Candidates,
        queries: Queries,
        history: SampledHistory,
        noise: Noise | None = None,
    ) -> SampledScores:
        """Score some of the rank's candidates for every query, as `scores` does for all. A collective.

        Args:
            z: Vectors of some of the rank's entities, (num_held, dim).
            held: Their rows in the shard: those of the columns, of own subjects and answers, and of what pairs and
                paths of the history end in.
            candidates: Of the step.
            queries: The questions, alike on all ranks.
            history: What the history index found for them.
            noise: Of the step; None: torch's.
        """
        asked = self.query_vectors(z, queries, noise, held)
        targets = Targets.of(queries, self.partition)
        answer = held.places(targets.candidate)
        plan = HistoryPlan.of(held.history(history), queries, len(z))
        parts = self.history_scores(z.index_select(0, plan.ends), asked, plan)
        # A query meets its answers whether or not its history has them.
        parts.append(PairScores(targets.query, answer, z.new_zeros(len(answer))))
        pairs = summed(parts, max(1, len(held)))
        row, offsets = link_runs(pairs.query)
        links = Links.of(offsets, pairs.other, len(held))
        score = pairs.score + linked_products(asked[0].index_select(0, row), z, links)
        rows = held.rows.index_select(0, pairs.other)
        shared = z.index_select(0, held.places(candidates.rows))
        if history.popular is None:
            dense = (asked[0] @ shared.T).to(z.dtype)
        else:
            query_row = history.relation_row
            popular = PopularAmong.of(history.popular, candidates, query_row, pairs.query, rows)
            of_columns, of_pairs = self.popularity(popular.plan).tensor_split([len(popular.row)])
            num_relations = len(history.popular.relations)
            table = popularity_table(popular.row, popular.column, of_columns, num_relations, len(shared))
            dense = popular_products(asked[0], shared, table, query_row)
            score = score.index_add(0, popular.pair, of_pairs)
        share = candidates.share(queries.subject.index_select(0, pairs.query), rows)
        answers, _ = place(pairs.query * len(held) + pairs.other, targets.query * len(held) + answer)
        replaced = [candidates.positions(pairs.query, rows)]
        replaced += [candidates.positions(missed.query, missed.other) for missed in history.missed]
        return SampledScores(
            dense, torch.cat(replaced), pairs.query, score, -share.log(), answers, targets.answers_per_query
        )

    def query_vectors(
        self, z: Tensor, queries: Queries, noise: Noise | None = None, held: Held | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the queries match with candidates, with their past and with paths, each (num_queries, ...).

        The owner of the subject computes them, all ranks get them; arguments as of `scores`, and `held` the rows of the
        shard that z is of, None for all.
        """
        own = self._own_queries(queries)
        rows = self.partition.rows(own.subject)
        of_subject = functional.embedding(rows if held is None else held.places(rows), z, sparse=True)
        return self._query_vectors(of_subject, own, noise)

    def _own_queries(self, queries: Queries) -> "_OwnQueries":
        relation, subject = queries.relation, queries.subject
        if self.topology.world_size == 1:
            return _OwnQueries(subject, relation, None)
        layout = Layout.of(self.partition.owner(subject), self.topology)
        return _OwnQueries(subject[layout.own], relation[layout.own], layout)

    def _query_vectors(
        self, of_subject: Tensor, own: "_OwnQueries", noise: Noise | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        row_noise = None if noise is None else noise.rows(own.subject * 2 * self.num_relations + own.relation)
        parts = (
            self.decoder(of_subject, self.relation.index_select(0, own.relation), row_noise),
            self.pair_attention.queries(of_subject, own.relation),
            self.path_attention.queries(of_subject, own.relation),
        )
        if own.layout is None:
            return parts
        gathered = gather_rows(torch.cat(parts, 1), own.layout, self.topology, "queries")
        dense, pair, path = gathered.split([part.shape[1] for part in parts], 1)
        return dense, pair, path

    def history_scores(self, ends: Tensor, asked: tuple[Tensor, Tensor, Tensor], plan: HistoryPlan) -> list[PairScores]:
        """The scores of pairs, by part.

        Args:
            ends: Vectors of the plan's ends, (num_ends, dim).
            asked: What `query_vectors` gives.
            plan: How to walk the past.
        """
        _, pair, path = asked
        pairs, paths = self.pair_attention, self.path_attention
        # One product for both maps.
        of_pairs, of_paths = functional.linear(ends, torch.cat([pairs.other.weight, paths.other.weight])).chunk(2, 1)
        parts = []
        if plan.pairs is not None:
            parts.append(pairs(of_pairs, pair, plan.pairs))
        if plan.paths is not None:
            parts.append(paths(of_paths, path, plan.paths))
        return parts


@dataclass(frozen=True)
class _OwnQueries:
    """Queries whose subjects this rank owns: int64 (num_own,) each, and their layout; None in a world of one."""

    subject: Tensor
    relation: Tensor
    layout: Layout | None
