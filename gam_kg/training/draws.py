"""The random choices of a training step, as parts of its batch: functions of seed, step and purpose."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gam_kg.graph.message_graph import MessageGraph
from gam_kg.graph.partition import Partition
from gam_kg.history.layout import ScoreLayout
from gam_kg.nn.entity_rows import EntitySources, SelectedRows
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.relation_rows import rows_of_relations
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.ops.records import map_tensors


@dataclass(frozen=True)
class ModelFacts:
    """What a step batch needs to know of the model, on the CPU; training does not change it.

    Attributes:
        sources: What the rank's entity rows are made of.
        trained_relations: Whether each relation has a row of its own, bool (num_relations,).
        partition: The rank's entities.
        entity_dropout, relation_dropout: Shares of rows that are replaced by the shared ones.
        update_sites, query_sites: Where memory updates and queries use random numbers.
    """

    sources: EntitySources
    trained_relations: Tensor
    partition: Partition
    entity_dropout: float
    relation_dropout: float
    update_sites: tuple[str, ...]
    query_sites: tuple[str, ...]

    @classmethod
    def of(cls, model: GAMLSTM) -> "ModelFacts":
        """Those of a model."""
        config = model.config
        return cls(
            map_tensors(model.sources(), lambda value: value.cpu()),
            model.trained_relations.cpu(),
            model.partition,
            config.entity_dropout,
            config.relation_dropout,
            model.gam.sites,
            model.decoder.sites,
        )


@dataclass(frozen=True)
class Draws:
    """The random choices of one optimizer step.

    Attributes:
        model: What is known of the model.
        rng: Random numbers of the step.
    """

    model: ModelFacts
    rng: CounterRNG

    def dropped(self, rows: Tensor | None = None) -> Tensor:
        """Which rows of the shard use the shared row, bool (num_requested,); `rows` None: of all."""
        ids = self.model.partition.ids
        ids = ids if rows is None else ids.index_select(0, rows)
        return self.rng.uniform(ids, "entity dropout") < self.model.entity_dropout

    def own(self) -> Tensor:
        """Which rows of the shard use their own row, bool (num_rows,)."""
        return self.model.sources.trained & ~self.dropped()

    def selected(self, rows: Tensor) -> SelectedRows:
        """Rows of the shard, each once, (num_requested,), of which some use the shared row."""
        return self.model.sources.select(rows, self.dropped(rows))

    @cached_property
    def relation_rows(self) -> Tensor:
        """The `rows_of_relations`, of which some use the shared rows."""
        own = self.model.trained_relations
        uniform = self.rng.uniform(torch.arange(len(own)), "relation dropout")
        return rows_of_relations(own & (uniform >= self.model.relation_dropout))

    def graph(self, snapshot: MessageGraph) -> MessageGraph:
        """A snapshot whose memory update uses these choices."""
        active = snapshot.active if snapshot.updated is None else snapshot.active.index_select(0, snapshot.updated)
        partition = self.model.partition
        key = partition.ids.index_select(0, active) + snapshot.time * partition.num_entities
        rng = self.rng.rows(key, *self.model.update_sites)
        return replace(snapshot.with_relation_rows(self.relation_rows), rng=rng)

    def layout(self, layout: ScoreLayout) -> ScoreLayout:
        """A layout whose queries use these choices."""
        layout = layout.with_relation_rows(self.relation_rows)
        key = layout.subject.long() * (2 * len(self.model.trained_relations) + 2) + layout.relation
        return replace(layout, rng=self.rng.rows(key, *self.model.query_sites))
