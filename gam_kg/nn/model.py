"""GAM_LSTM: entity rows and memory, graph attention, LSTM, decoder and history attention in one module."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gam_kg.config import ModelConfig
from gam_kg.data.names import NameWords
from gam_kg.data.partition import Partition
from gam_kg.data.past import History
from gam_kg.data.snapshot import Queries
from gam_kg.distributed.neighbourhood import Neighbourhood
from gam_kg.distributed.rows import Layout, exchange_rows, gather_rows
from gam_kg.distributed.topology import Topology
from gam_kg.nn.candidates import (
    Candidates,
    DividedPairs,
    SampledScores,
    held_history,
    place,
    popular_among,
    popular_pairs,
    popularity_of,
)
from gam_kg.nn.decoder import DECODERS
from gam_kg.nn.entity_rows import WordLinks, named_rows
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
from gam_kg.nn.links import link_runs, linked_products
from gam_kg.nn.noise import Noise, normal_rows
from gam_kg.nn.recurrence import EntityLSTM, Memory
from gam_kg.nn.vectors import unit

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
        seed: Of the entity rows; the other parameters start from torch's generator.
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
        seed: int = 0,
    ) -> None:
        super().__init__()
        dim, num_entities = config.dim, len(trained)
        self.config = config
        self.num_relations = num_relations
        self.partition = partition or Partition(num_entities)
        self.topology = topology or Topology()
        ids = self.partition.ids
        std = (2 / (num_entities + dim)) ** 0.5  # Xavier, of the whole table
        self.entity = nn.Parameter(normal_rows(ids, dim, seed, ENTITY) * std)
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
        entity = functional.embedding(index, self.entity, sparse=True)
        if self.word is None or words is None:
            return named_rows(entity, self.shared, own)
        words = words.select(index)
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
            Attention weights (num_edges, heads) and the memory after the snapshot.
        """
        x = unit(rows + memory.hidden)
        sent = self.gam.project(x)
        if neighbourhood.halo is not None:
            sent = torch.cat([sent, exchange_rows(sent, neighbourhood.halo, self.topology)])
        key = neighbourhood.entity + neighbourhood.time * self.partition.num_entities
        row_noise = None if noise is None else noise.rows(key)
        # Only the relations of this snapshot are projected: of many, few are in any one.
        relations = self.relation.index_select(0, neighbourhood.relations)
        attended, weights = self.gam.attend(x, sent, neighbourhood.edges, neighbourhood.edge_type, relations, row_noise)
        return weights, self.lstm(attended, memory, neighbourhood.time)

    def scores(self, z: Tensor, queries: Queries, history: History, noise: Noise | None = None) -> Tensor:
        """Score the rank's candidates for every query; higher is better. A collective.

        Args:
            z: Vectors of the rank's entities as of the queries' time, (num_rows, dim).
            queries: The questions, alike on all ranks.
            history: What the history index found for them.
            noise: Of the step; None: torch's.

        Returns:
            (num_queries, num_rows).
        """
        asked = self.query_vectors(z, queries, noise)
        past = history.popularity
        if past is None:
            dense = (asked[0] @ z.T).to(z.dtype)
        else:
            table = popularity_table(past.row, past.other, self.popularity(past), len(past.relations), len(z))
            dense = popular_products(asked[0], z, table, past.query_row)
        return add_pair_scores(dense, self.history_scores(z, asked, queries, history))

    def scores_in_parts(self, z: Tensor, queries: Queries, history: History) -> tuple[Tensor, list[PairScores]]:
        """What `scores` are made of, for candidates too many to write them out. A collective.

        Returns:
            Vectors of the queries, (num_queries, dim), of which the scores are the products with z; and what is added
            to some pairs.
        """
        asked = self.query_vectors(z, queries)
        parts = self.history_scores(z, asked, queries, history)
        if history.popularity is not None:
            parts.append(popular_pairs(history.popularity, self.popularity(history.popularity)))
        return asked[0], parts

    def sampled_scores(
        self,
        z: Tensor,
        held: Tensor,
        candidates: Candidates,
        queries: Queries,
        history: History,
        noise: Noise | None = None,
    ) -> SampledScores:
        """Score some of the rank's candidates for every query, as `scores` does for all. A collective.

        Args:
            z: Vectors of some of the rank's entities, (num_held, dim).
            held: Their rows in the shard, ascending, int64 (num_held,): those of the candidates, of own subjects and of
                what pairs and paths of the history end in.
            candidates: Those that all queries share.
            queries: The questions, alike on all ranks.
            history: What the history index found for them.
            noise: Of the step; None: torch's.
        """
        asked = self.query_vectors(z, queries, noise, held)
        column = place(held, candidates.rows)[0]
        shared = z.index_select(0, column)
        pairs = self.history_scores(z, asked, queries, held_history(history, held))
        divided = DividedPairs.of(pairs, candidates, column, len(held))
        row, offsets = link_runs(divided.query)
        extra = divided.score + linked_products(asked[0].index_select(0, row), z, offsets, divided.other)
        past = history.popularity
        if past is None:
            dense = (asked[0] @ shared.T).to(z.dtype)
        else:
            score = self.popularity(past)
            table = popularity_table(*popular_among(past, score, candidates.rows), len(past.relations), len(column))
            dense = popular_products(asked[0], shared, table, past.query_row)
            rows = held.index_select(0, divided.other)
            extra = extra + popularity_of(past, score, divided.query, rows, self.partition.num_rows)
        dense = add_pair_scores(dense, divided.shared)
        return SampledScores(dense, candidates.log_weight, divided.query, extra, divided.replaced)

    def query_vectors(
        self, z: Tensor, queries: Queries, noise: Noise | None = None, held: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the queries match with candidates, with their past and with paths, each (num_queries, ...).

        The owner of the subject computes them, all ranks get them; arguments as of `scores`, and `held` the rows of the
        shard that z is of, None for all.
        """
        relation, subject, layout = queries.relation, queries.subject, None
        if self.topology.world_size > 1:
            layout = Layout.of(self.partition.owner(subject), self.topology)
            relation, subject = relation[layout.own], subject[layout.own]
        row_noise = None if noise is None else noise.rows(subject * 2 * self.num_relations + relation)
        # A sparse gradient is added in place to the dense one that the scores give z.
        rows = self.partition.rows(subject)
        of_subject = functional.embedding(rows if held is None else place(held, rows)[0], z, sparse=True)
        parts = (
            self.decoder(of_subject, self.relation.index_select(0, relation), row_noise),
            self.pair_attention.queries(of_subject, relation),
            self.path_attention.queries(of_subject, relation),
        )
        if layout is None:
            return parts
        gathered = gather_rows(torch.cat(parts, 1), layout, self.topology, "queries")
        dense, pair, path = gathered.split([part.shape[1] for part in parts], 1)
        return dense, pair, path

    def history_scores(
        self, z: Tensor, asked: tuple[Tensor, Tensor, Tensor], queries: Queries, history: History
    ) -> list[PairScores]:
        """The scores of pairs, by part; `asked` is what `query_vectors` gives, the rest as of `scores`."""
        _, pair, path = asked
        pairs, paths = history.pairs, history.paths
        ends = []
        if pairs is not None:
            ends.append((self.pair_attention.other.weight, pairs.entry_other))
        if paths is not None:
            ends.append((self.path_attention.other.weight, paths.second_other))
        others, parts = iter(_mapped_rows(z, ends)), []
        if pairs is not None:
            parts.append(self.pair_attention(next(others), pair, queries.relation, pairs))
        if paths is not None:
            parts.append(self.path_attention(next(others), path, paths))
        return parts


def _mapped_rows(x: Tensor, wanted: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Rows of several linear maps of x: of each map its own, (num_rows, width).

    Args:
        x: (num_rows, dim).
        wanted: The weight (width, dim) of each map, and which rows of x are wanted, int64 (num_wanted,).
    """
    if sum(len(rows) for _, rows in wanted) < len(x):
        return [functional.linear(x.index_select(0, rows), weight) for weight, rows in wanted]
    if not wanted:
        return []
    weights = [weight for weight, _ in wanted]
    mapped = functional.linear(x, torch.cat(weights)).split([len(weight) for weight in weights], 1)
    return [one.index_select(0, rows) for one, (_, rows) in zip(mapped, wanted, strict=True)]
