"""One training step: recompute the last memory updates, score a snapshot, back-propagate.

On several ranks all of it runs in lockstep: what is marked a collective is entered by all ranks, those without facts or
queries included.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.config import TrainConfig
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.cross_entropy import sharded_cross_entropy
from gam_kg.distributed.exchange import exchange_rows, gather_rows
from gam_kg.graph.message_graph import MessageGraph, Window
from gam_kg.nn.entity_rows import SelectedRows
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.training.query_block import QueryBlock
from gam_kg.training.step_batch import StepBatch
from gam_kg.training.stopwatch import Stopwatch


@dataclass(frozen=True)
class ShardedModel:
    """A rank's model, with the communication that its calls need.

    Attributes:
        model: The model.
        communicator: The ranks.
    """

    model: GAMLSTM
    communicator: Communicator

    def entity_vectors(
        self,
        memory: Memory,
        window: Window | None = None,
        *,
        selected: SelectedRows | None = None,
        own: Tensor | None = None,
    ) -> Tensor:
        """See `GAMLSTM.entity_vectors`. A collective where there is a window."""
        return self.model.entity_vectors(memory, window, selected=selected, own=own, exchange=self._exchange)

    def vectors_of(self, memory: Memory, rows: Tensor) -> Tensor:
        """`entity_vectors` of some rows, each once, outside training, (num_requested, dim)."""
        return self.entity_vectors(memory, selected=self.model.sources().select(rows))

    def advance(self, memory: Memory, snapshot: MessageGraph) -> None:
        """Update a memory with a snapshot outside training, in place and without gradients. A collective."""
        rows = self.model.sources().select(snapshot.active)
        self.update(memory, snapshot.with_relation_rows(self.model.relation_rows()), rows)

    @torch.no_grad()
    def update(self, memory: Memory, snapshot: MessageGraph, active: SelectedRows) -> None:
        """Update a memory with a snapshot, in place and without gradients. A collective.

        Args:
            memory: Memory of all rows.
            snapshot: The facts, with rows of relations.
            active: The rows of its active entities.
        """
        rows = self.model.selected_rows(active)
        _, after = self.model.update(rows, memory.rows(snapshot.active), snapshot, self._exchange)
        memory.store(snapshot.active, after)

    def scores(self, z: Tensor, block: QueryBlock) -> Tensor:
        """See `GAMLSTM.scores`. A collective."""
        return self.model.scores(z, block.layout, self.gatherer(block))

    def score_parts(self, z: Tensor, block: QueryBlock) -> tuple[Tensor, Tensor, Tensor]:
        """The parts of `scores`, not added up, for when the table would be too large; outside training. A collective.

        Returns:
            Query vectors (num_queries, dim), of which the scores are the products with z; and positions and values of
            what is added to the scores, (num_added,) each, duplicates allowed.
        """
        layout = block.layout
        own = self.model.query_vectors(z.index_select(0, layout.row), layout)
        query, *history = self.model.split_query_vectors(self.gatherer(block)(own))
        added = self.model.walk_scores(z.index_select(0, layout.ends), *history, layout)
        positions, popularity = [layout.all_positions], layout.popularity
        if popularity is not None:
            where, score = popularity.by_query(layout.num_columns)
            positions.append(where)
            added.append(self.model.popularity(popularity.columns, layout.kinds).index_select(0, score))
        return query, torch.cat(positions), torch.cat([z.new_zeros(0), *added])

    def gatherer(self, block: QueryBlock) -> Callable[[Tensor], Tensor]:
        """A function from the query vectors of this rank to those of all ranks."""
        plan = block.gather
        if plan is None:
            return lambda own: own
        return lambda own: gather_rows(own, plan, self.communicator)

    def _exchange(self, messages: Tensor, snapshot: MessageGraph) -> Tensor:
        if snapshot.halo is None:
            return messages
        return torch.cat([messages, exchange_rows(messages, snapshot.halo, self.communicator)])


def backward_step(
    sharded: ShardedModel,
    memory: Memory,
    batch: StepBatch,
    config: TrainConfig,
    watch: Stopwatch,
    on_scored: Callable[[], None] = lambda: None,
) -> Tensor:
    """The mean cross-entropy of a step over all ranks; gradients are added to the parameters' `.grad`. A collective.

    Gradients of shared parameters are partial; sum them over the ranks.

    Args:
        sharded: The model, in training mode.
        memory: Memory before the window.
        batch: The step, on the device of the model.
        config: Loss and precision.
        watch: Measures each phase.
        on_scored: Called when all scores are back-propagated, and entity vectors are not.
    """
    autocast = torch.autocast(memory.hidden.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    with watch.phase("encode"), autocast:
        z = sharded.entity_vectors(memory, batch.window, selected=batch.rows, own=batch.own)
    # Gradients of all blocks are summed at z, so that back-propagation through the window happens once.
    leaf = z.detach().requires_grad_()
    loss = z.new_zeros(())
    for block in batch.blocks:
        with watch.phase("score"), autocast:
            scores = sharded.scores(leaf, block)
        assert block.targets is not None
        with watch.phase("loss"):
            total = sharded_cross_entropy(
                scores, block.targets, smoothing=config.label_smoothing, communicator=sharded.communicator
            )
            block_loss = total / batch.num_answers
        with watch.phase("backward of scores"):
            block_loss.backward()
        loss += block_loss.detach()
    on_scored()
    with watch.phase("backward of encode"):
        z.backward(leaf.grad)
    return loss
