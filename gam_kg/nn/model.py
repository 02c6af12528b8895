"""GAM_LSTM: entity rows and memory, graph attention, LSTM, decoder and history attention in one module."""

import torch
from torch import Tensor, nn

from gam_kg.config import ModelConfig
from gam_kg.data.graph import Queries, Snapshot
from gam_kg.data.history import History
from gam_kg.data.names import NameWords
from gam_kg.data.ragged import ragged_ranges
from gam_kg.nn.decoder import DECODERS
from gam_kg.nn.gam import GraphAttention
from gam_kg.nn.history_attention import PairAttention, PairScores, PathAttention, PopularityScore, add_pair_scores
from gam_kg.nn.recurrence import EntityLSTM, Memory
from gam_kg.nn.vectors import unit


class GAMLSTM(nn.Module):
    """The temporal knowledge-graph model of gam-kg.

    Entity v has a learned row e_v, the words of its name, and a memory; its vector before t is z_v = unit(e_v + h_v).
    Entities never trained have the learned shared row in place of e_v, which entity dropout trains.

    Args:
        config: Sizes and switches.
        num_relations: Relations without inverses.
        trained: Whether each entity has a row of its own (a fact in train), bool (num_entities,).
        words: Shared words of the entities' names; None for none.
    """

    trained: Tensor
    word_offsets: Tensor
    word_index: Tensor

    def __init__(
        self, config: ModelConfig, num_relations: int, trained: Tensor, words: NameWords | None = None
    ) -> None:
        super().__init__()
        dim, num_entities = config.dim, len(trained)
        self.config = config
        self.num_relations = num_relations
        self.entity = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_entities, dim)))
        self.shared = nn.Parameter(torch.randn(dim) * self.entity.std().item())
        self.relation = nn.Parameter(nn.init.xavier_normal_(torch.empty(2 * num_relations, dim)))
        self.register_buffer("trained", trained.clone(), persistent=False)
        self.word = None
        if words is not None and len(words.words):
            self.word = nn.Parameter(torch.randn(len(words.words), dim) * 0.05)
            self.register_buffer("word_offsets", words.offsets.clone(), persistent=False)
            self.register_buffer("word_index", words.word.clone(), persistent=False)
        self.gam = GraphAttention(dim, config.heads, config.dropout)  # ty: ignore[abstract-class-instantiation]
        self.lstm = EntityLSTM(dim)
        self.decoder = DECODERS[config.decoder](dim, config.dropout)
        history = config.history
        self.pair_attention = PairAttention(2 * num_relations, dim, history)
        self.path_attention = PathAttention(2 * num_relations, dim, history)
        self.popularity = PopularityScore(2 * num_relations, history)

    def entity_rows(self, dropped: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """What is known of entities apart from memory: learned or shared row, plus the words of the name.

        Args:
            dropped: Entities that get the shared row this step, bool (num_entities,).
            index: Only these entities, int64 (num_rows,); None for all.

        Returns:
            (num_entities, dim), or (num_rows, dim).
        """
        own = self.trained if dropped is None else self.trained & ~dropped
        entity, own = (self.entity, own) if index is None else (self.entity[index], own[index])
        rows = torch.where(own[:, None], entity, self.shared)
        if self.word is None:
            return rows
        word, offsets = self.word_index, self.word_offsets
        if index is not None:
            first, length = offsets[index], offsets[index + 1] - offsets[index]
            _, position = ragged_ranges(first, length)
            word, offsets = word[position], torch.cat([length.new_zeros(1), torch.cumsum(length, 0)])
        words = nn.functional.embedding_bag(word, self.word, offsets, mode="mean", include_last_offset=True)
        return rows + words

    def update(self, rows: Tensor, memory: Memory, snapshot: Snapshot) -> tuple[Tensor, Memory]:
        """Attend within a snapshot and remember it, for its active entities.

        Args:
            rows: `entity_rows` of the active entities, (num_active, dim).
            memory: Memory of the active entities before the snapshot.
            snapshot: The facts.

        Returns:
            Attention weights (num_edges, heads) and the memory after the snapshot.
        """
        x = unit(rows + memory.hidden)
        edges = torch.stack([torch.searchsorted(snapshot.active, end) for end in (snapshot.other, snapshot.anchor)])
        attended, weights = self.gam(x, edges, snapshot.relation, self.relation, return_attention_weights=True)
        return weights, self.lstm(attended, memory, snapshot.time)

    def scores(self, z: Tensor, queries: Queries, history: History) -> Tensor:
        """Score every candidate of every query; higher is better.

        Args:
            z: Entity vectors as of the queries' time, (num_entities, dim).
            queries: The questions.
            history: What the history index found for them.

        Returns:
            (num_queries, num_entities).
        """
        subject = z[queries.subject]
        dense = self.decoder(subject, self.relation[queries.relation]) @ z.T
        return add_pair_scores(dense, self.history_scores(z, queries, history))

    def history_scores(self, z: Tensor, queries: Queries, history: History) -> list[PairScores]:
        """The sparse part of the scores, by part; arguments as of `scores`."""
        subject = z[queries.subject]
        parts = []
        if history.pairs is not None:
            parts.append(self.pair_attention(z, subject, queries.relation, history.pairs))
        if history.paths is not None:
            parts.append(self.path_attention(z, subject, queries.relation, history.paths))
        if history.popularity is not None:
            parts.append(self.popularity(history.popularity))
        return parts
