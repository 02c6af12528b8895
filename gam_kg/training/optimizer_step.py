"""An optimizer step as one function of its batch, with all of its results written in place."""

import torch

from gam_kg.config import TrainConfig
from gam_kg.training.gradients import Gradients
from gam_kg.training.optimizer import RowAdamW
from gam_kg.training.step import ShardedModel, backward_step
from gam_kg.training.step_batch import StepBatch
from gam_kg.training.stopwatch import Stopwatch


class OptimizerStep:
    """Changes weights, optimizer state and memory as the batch of a step says. A collective.

    All that it reads and writes stays at one place in memory, and no number of the program changes from step to step.
    So a recording of it, replayed after another batch was written over its own, is the step of that batch.

    Args:
        sharded: The model.
        config: Loss, precision and optimizer.

    Attributes:
        memory: The memory of all rows, one window behind the next step.
        optimizer: The optimizer.
        gradients: The gradients.
        learning_rate: That of the next step, ().
        loss: Mean cross-entropy of the last step over all ranks, ().
    """

    def __init__(self, sharded: ShardedModel, config: TrainConfig) -> None:
        model = sharded.model
        self.memory = model.empty_memory()
        like = self.memory.hidden
        # The fused optimizer requires float32 on a GPU.
        self.learning_rate = torch.zeros((), dtype=torch.float32 if like.is_cuda else torch.float64, device=like.device)
        self.optimizer = RowAdamW(
            model.parameters(),
            lr=self.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=like.is_cuda,
        )
        self.loss = like.new_zeros(())
        self._sharded, self._config = sharded, config
        self.gradients = Gradients(model, sharded.communicator)

    def __call__(self, batch: StepBatch, watch: Stopwatch) -> None:
        """Do the step of a batch, which is on the device of the model, and measure its phases."""
        self.gradients.clear()
        loss = backward_step(self._sharded, self.memory, batch, self._config, watch, self.gradients.begin)
        with watch.phase("gradients"):
            self.gradients.reduce(self._config.gradient_norm)
        with watch.phase("optimizer"):
            self.optimizer.step()
        if batch.leaving is not None:
            with watch.phase("advance"):
                self._sharded.update(self.memory, batch.leaving.snapshot, batch.leaving.rows)
        self.loss.copy_(loss)
