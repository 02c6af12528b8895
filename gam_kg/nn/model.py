"""GAM_LSTM: entity rows and memory, graph attention, LSTM, decoder and history attention in one module."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from gam_kg.config import ModelConfig
from gam_kg.graph.message_graph import MessageGraph, Window
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.partition import Partition
from gam_kg.history.layout import ScoreLayout
from gam_kg.nn.decoder import DECODERS
from gam_kg.nn.entity_rows import EntitySources, SelectedRows, WeightedWords, named_rows, own_or_shared
from gam_kg.nn.gam import GraphAttention
from gam_kg.nn.gate import Gate
from gam_kg.nn.history_attention import FactAttention, PathAttention, PopularityScore
from gam_kg.nn.recurrence import EntityLSTM, Memory
from gam_kg.nn.relation_rows import rows_of_kinds, rows_of_relations, with_shared_rows
from gam_kg.nn.rule_attention import ConfidenceScore, RuleAttention
from gam_kg.nn.scores import add_scores, column_scores
from gam_kg.nn.vectors import unit, with_selected_rows
from gam_kg.ops.counter_rng import normal_rows
from gam_kg.ops.records import map_tensors
from gam_kg.ops.sparse import CSRPattern, sddmm

ENTITY = "entity"
"""The parameter of which each rank has the rows of its own entities; all others are alike on all ranks."""

ENCODING = (ENTITY, "shared", "relation", "word", "gam", "lstm")
"""Parameters and modules that entity vectors depend on; the gradients of others are complete with those of scores."""

Exchange = Callable[[Tensor, MessageGraph], Tensor]
Gather = Callable[[Tensor], Tensor]


def _alone(messages: Tensor, _: MessageGraph) -> Tensor:
    return messages


class GAMLSTM(nn.Module):
    """The temporal knowledge-graph model of gam-kg, on one device.

    Entity v has the vector z_v = unit(e_v + w_v + h_v) before t: its learned row e_v, the sum w_v of the rows of the
    words of its name and features, and its memory h_v. A word's row counts √d / 2 times its weight in `NameWords` times
    its `word_agreement`, which training sets. Entities without facts in training have the learned shared row in place
    of e_v, which entity dropout trains; relations likewise, in every table, by relation dropout.

    With several ranks it has one rank's entities; `exchange` and `gather` fetch the others'. What a call reads apart
    from weights and memory, random numbers included, was made before it (see `StepBatch`), so that it waits for nothing
    that a device computes.

    Args:
        config: Sizes and switches.
        trained_relations: Whether each relation has a row of its own (a fact in train), bool (num_relations,).
        trained: Likewise of entities, bool (num_entities,).
        words: Shared words of the entities' names and features; None for none.
        partition: The rank's entities; None for all.
        seed: Seed of the entity rows; the other parameters start from torch's generator. None leaves them to
            weights that are loaded.
    """

    trained: Tensor
    trained_relations: Tensor
    word_agreement: Tensor

    def __init__(
        self,
        config: ModelConfig,
        trained_relations: Tensor,
        trained: Tensor,
        words: NameWords | None = None,
        *,
        partition: Partition | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        dim, num_entities = config.dim, len(trained)
        self.config, num_relations = config, len(trained_relations)
        self.partition = partition or Partition(num_entities)
        ids = self.partition.ids
        std = (2 / (num_entities + dim)) ** 0.5  # Xavier, of the whole table
        self.entity = nn.Parameter(torch.empty(len(ids), dim))
        if seed is not None:
            self.entity.data = normal_rows(ids, dim, seed, ENTITY).mul_(std)
        self.shared = nn.Parameter(torch.randn(dim) * std)
        relation = nn.init.xavier_normal_(torch.empty(2 * num_relations, dim))
        self.relation = nn.Parameter(with_shared_rows(relation))
        self.relation_slope = nn.Parameter(torch.zeros_like(self.relation))
        self.register_buffer("trained", trained[ids.to(trained.device)], persistent=False)
        self.register_buffer("trained_relations", trained_relations.clone(), persistent=False)
        self.word, self.words = None, None
        if words is not None and len(words.words):
            self.word = nn.Parameter(torch.randn(len(words.words), dim) * 0.05)
            self.register_buffer("word_agreement", torch.ones(len(words.words)))
            pattern = CSRPattern.of(words.offsets, words.word, len(self.word))
            weight = words.weight * (dim**0.5 / 2)  # words and memory are then about as long
            self.words = WeightedWords(pattern, weight.to(self.word.dtype)).select(ids, len(self.word))
        self.gam = GraphAttention(dim, config.heads, config.dropout)
        self.lstm = EntityLSTM(dim)
        self.decoder = DECODERS[config.decoder](dim, config.dropout)
        self.gate = Gate(2 * num_relations)
        self.pair_attention = FactAttention(2 * num_relations, dim, config.history)
        self.path_attention = PathAttention(2 * num_relations, dim, config.history)
        self.rule_attention = RuleAttention(2 * num_relations, dim, config.history)
        self.confidence = ConfidenceScore(2 * num_relations, config.history)
        self.popularity = PopularityScore(2 * num_relations, config.history)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GAMLSTM":
        """Moves the words of entities to another device as the parameters are."""
        self.words = map_tensors(self.words, fn)
        return super()._apply(fn, recurse)

    def empty_memory(self) -> Memory:
        """The memory of all rows before the first snapshot."""
        return Memory.empty(len(self.entity), self.config.dim, like=self.entity.detach())

    def sources(self) -> EntitySources:
        """What the entities' rows are made of."""
        return EntitySources(self.trained, self.words, 0 if self.word is None else len(self.word))

    def entity_rows(self, own: Tensor | None = None) -> Tensor:
        """Entity vectors without memory: learned or shared row, plus words of name and features; (num_rows, dim).

        Args:
            own: Which use the learned row, not the shared one, bool (num_rows,); None: those that have one.
        """
        own = self.trained if own is None else own
        return named_rows(self.entity, self.shared, own, self._word_rows(), self.words)

    def selected_rows(self, rows: SelectedRows) -> Tensor:
        """Some of the `entity_rows`, (num_requested, dim); the learned rows get a sparse gradient."""
        # A row that is not its own is not read, gets no gradient and does not step.
        entity = functional.embedding(rows.index.index_select(0, rows.own), self.entity, sparse=True)
        entity = own_or_shared(entity, self.shared, rows.own, len(rows.index))
        if self.word is None or rows.words is None:
            return entity
        is_own = torch.ones(len(entity), dtype=torch.bool, device=entity.device)
        return named_rows(entity, self.shared, is_own, self._word_rows(), rows.words)

    def relation_rows(self) -> Tensor:
        """Where relations, and then their inverses, have their rows in tables, outside training."""
        return rows_of_relations(self.trained_relations)

    def _word_rows(self) -> Tensor | None:
        return None if self.word is None else self.word * self.word_agreement[:, None]

    def entity_vectors(
        self,
        memory: Memory,
        window: Window | None = None,
        *,
        selected: SelectedRows | None = None,
        own: Tensor | None = None,
        exchange: Exchange = _alone,
    ) -> Tensor:
        """Vectors z after a memory and the updates of a window, (num_requested, dim).

        Args:
            memory: Memory of all rows before the window.
            window: Snapshots whose updates get gradients.
            selected: The requested rows, those active in the window among them, ascending; None for all.
            own: See `entity_rows`; only where all rows are requested.
            exchange: See `update`.
        """
        if selected is None:
            rows, hidden = self.entity_rows(own), memory.hidden
        else:
            rows, hidden = self.selected_rows(selected), memory.hidden.index_select(0, selected.index)
        if window is None:
            return unit(rows + hidden)
        before = compact = memory.rows(window.touched)
        rows, compact_rows = with_selected_rows(rows, window.at)
        for snapshot, active in zip(window.snapshots, window.places, strict=True):
            _, after = self.update(compact_rows.index_select(0, active), compact.rows(active), snapshot, exchange)
            updated = active if snapshot.updated is None else active.index_select(0, snapshot.updated)
            compact = compact.replaced(updated, after)
        # Adding what has changed makes no copy of all rows, forward or backward.
        return unit((rows + hidden).index_add_(0, window.at, compact.hidden - before.hidden))

    def update(
        self,
        rows: Tensor,
        memory: Memory,
        snapshot: MessageGraph,
        exchange: Exchange = _alone,
    ) -> tuple[Tensor, Memory]:
        """Update the memory of active entities with a snapshot: attention over its facts, then the LSTM.

        Args:
            rows: `entity_rows` of the active entities, (num_active, dim).
            memory: Memory of the active entities before the snapshot.
            snapshot: The facts, with rows of relations.
            exchange: Adds the messages of remote neighbours, (num_active + num_halo, 2 * dim), to those of the active
                entities, (num_active, 2 * dim).

        Returns:
            Attention weights (num_edges, heads), and the memory of the updated entities after the snapshot. Without
            `memory` in the configuration weights are zero, and only `last_seen` changes.
        """
        if not self.config.memory:
            before = memory if snapshot.updated is None else memory.rows(snapshot.updated)
            seen = replace(before, last_seen=snapshot.time.to(before.last_seen).expand_as(before.last_seen))
            weights = rows.new_zeros(len(snapshot.edge_type), self.config.heads)
            return weights, seen.where(snapshot.changes, before)
        x = unit(rows + memory.hidden)
        messages = exchange(self.gam.message(x), snapshot)
        if snapshot.updated is not None:
            x, memory = x.index_select(0, snapshot.updated), memory.rows(snapshot.updated)
        # Only the relations of this snapshot are projected: of many, few are in any one.
        relations = self.relation.index_select(0, snapshot.relations)
        query = self.gam.query(x)
        edges = snapshot.src, snapshot.dst
        aggregated, weights = self.gam.aggregate(query, messages, edges, snapshot.edge_type, relations)
        attended = self.gam.update(aggregated, x, snapshot.rng)
        return weights, self.lstm(attended, memory, snapshot.time).where(snapshot.changes, memory)

    def query_vectors(self, z: Tensor, layout: ScoreLayout) -> Tensor:
        """Four query vectors side by side: for candidates, for past facts, for paths, for rules.

        Args:
            z: Vectors of the subjects of the rank's own queries, (num_own_queries, dim).
            layout: The queries, in `relation_rows`.

        Returns:
            (num_own_queries, dim + 3 * history dim).
        """
        parts, gate = (self.pair_attention, self.path_attention, self.rule_attention), self.gate
        tables = (self.relation, self.relation_slope), gate.relation, gate.bias, *(part.query for part in parts)
        relation, of_gate, bias, *of_parts = rows_of_kinds(layout.kinds, *tables, of=layout.kind)
        query = self.decoder(z, relation, layout.rng)
        if self.config.gate:
            query = query * gate(of_gate, bias, layout.past)
        of_subject = functional.linear(z, torch.cat([part.subject.weight for part in parts]))
        return torch.cat([query, torch.cat(of_parts, 1) + of_subject], 1)

    def scores(self, z: Tensor, layout: ScoreLayout, gather: Gather = lambda own: own) -> Tensor:
        """The vector of scores, (num_queries * num_columns + num_apart,); higher is better.

        Args:
            z: Vectors of the rows that the layout's indices refer to, (num_rows, dim).
            layout: The queries, their candidates and their past, in `relation_rows`.
            gather: Maps the rank's own query vectors to those of all queries.
        """
        z, of_subject, of_end, *columns = with_selected_rows(
            z, layout.row, layout.ends, *(() if layout.columns is None else (layout.columns,))
        )
        dense, *by_part = self.split_query_vectors(gather(self.query_vectors(of_subject, layout)))
        added = self.walk_scores(of_end, *by_part, layout)
        table, of_query = None, None
        if layout.popularity is not None:
            popularity, size = layout.popularity, layout.popularity.num_kinds * layout.num_columns
            of_columns = self.popularity(popularity.columns, layout.kinds)
            table = of_columns.new_zeros(size).index_add(0, popularity.cell, of_columns)
            table, of_query = table.view(popularity.num_kinds, layout.num_columns), popularity.of_query
            if popularity.apart is not None:
                added.append(self.popularity(popularity.apart, layout.kinds))
        if layout.apart is not None:
            added.insert(0, sddmm(dense, z, layout.apart))
        scores = column_scores(dense, columns[0] if columns else z, table, of_query, layout.num_apart)
        return add_scores(scores, layout.all_positions, torch.cat(added)) if added else scores

    def split_query_vectors(self, queries: Tensor) -> tuple[Tensor, ...]:
        """The four parts of `query_vectors`."""
        width = self.config.history.dim
        return queries.split([self.config.dim, width, width, width], 1)

    def end_keys(self, ends: Tensor) -> tuple[Tensor, ...]:
        """What keys of past facts and of paths have of the vectors of ends, (num_ends, history dim) each."""
        maps = self.pair_attention.other, self.path_attention.other
        return functional.linear(ends, torch.cat([one.weight for one in maps])).chunk(2, 1)  # one product for both

    def walk_scores(self, ends: Tensor, fact: Tensor, path: Tensor, rule: Tensor, layout: ScoreLayout) -> list[Tensor]:
        """What past facts, paths, rules and their confidence add to the scores of their pairs, one part after another.

        It reads the vectors of the layout's ends, (num_ends, dim), the last three of `query_vectors`, (num_queries,
        history dim) each, and the past, in `relation_rows`.
        """
        (of_facts, of_paths), scores = self.end_keys(ends), []
        if layout.facts is not None:
            scores.append(self.pair_attention(of_facts, fact, layout.facts, layout.kinds))
        if layout.paths is not None:
            scores.append(self.path_attention(of_paths, path, layout.paths))
        if layout.rules is not None:
            scores.append(self.rule_attention(rule, layout.rules))
        if layout.confidences is not None:
            scores.append(self.confidence(layout.confidences, layout.kinds))
        return scores
