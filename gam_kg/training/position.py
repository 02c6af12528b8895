"""Where training stands, and the events by which it reports that."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Position:
    """Where training stands; all of it is in a checkpoint.

    Attributes:
        epoch: Epochs finished.
        index: Snapshots done in the running epoch.
        step: Optimizer steps done in all.
        loss: Sum of the losses of the running epoch's steps, each times the answers of the step.
        answers: Number of these answers; queries ahead are not counted.
        seconds: Time spent on the running epoch's steps.
        best_epoch: Epoch with the best validation MRR so far, from 1; 0 before the first.
        metrics: One entry a finished epoch.
        spent: Seconds by phase of the running epoch's steps.
        traffic: Bytes, collectives and seconds by purpose of the running epoch's steps.
        halo_rows: Rows received from other ranks in the running epoch's steps.
        temperatures: Those of the best weights, by horizon; empty until training has finished.
    """

    epoch: int = 0
    index: int = 0
    step: int = 0
    loss: float = 0.0
    answers: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    traffic: dict[str, list[float]] = field(default_factory=dict)
    halo_rows: int = 0
    temperatures: dict[str, float] = field(default_factory=dict)

    def count(self, snapshot: dict[str, Any]) -> None:
        """Add what the steps of a snapshot took, see `Progress.snapshot`, to the running epoch."""
        self.seconds += snapshot["seconds"]
        self.halo_rows += snapshot["halo_rows"]
        self.count_phases(snapshot["phases"])
        for name, values in snapshot["traffic"].items():
            before = self.traffic.get(name, [0.0] * len(values))
            self.traffic[name] = [old + new for old, new in zip(before, values, strict=True)]

    def count_phases(self, phases: dict[str, float]) -> None:
        """Add seconds by phase to those of the running epoch."""
        for name, seconds in phases.items():
            self.spent[name] = self.spent.get(name, 0.0) + seconds

    def end_epoch(self, found: dict[str, Any]) -> dict[str, Any]:
        """End the running epoch; returns its metrics, with those found of the trained model, `valid_mrr` among them."""
        metrics: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "loss": self.loss / self.answers,
            **found,
            "seconds": self.seconds,
            "facts_per_second": self.answers / 2 / self.seconds,
            "phases": self.spent,
            "traffic": {
                name: dict(zip(("bytes", "collectives", "seconds"), values, strict=True))
                for name, values in self.traffic.items()
            },
            "halo_rows": self.halo_rows,
        }
        self.metrics.append(metrics)
        self.epoch += 1
        if not self.best_epoch or found["valid_mrr"] > self.best_mrr:
            self.best_epoch = self.epoch
        self.index, self.loss, self.answers, self.seconds = 0, 0.0, 0, 0.0
        self.spent, self.traffic, self.halo_rows, self.temperatures = {}, {}, 0, {}
        return metrics

    def text(self, num_snapshots: int) -> str:
        """Where training stands, in words, in epochs of so many snapshots."""
        if self.index == num_snapshots:
            return f"validation after epoch {self.epoch + 1}"
        return f"epoch {self.epoch + 1}, snapshot {self.index + 1} of {num_snapshots}"

    @property
    def best_mrr(self) -> float:
        """Best validation MRR so far; 0 before the first epoch ends."""
        return self.metrics[self.best_epoch - 1]["valid_mrr"] if self.best_epoch else 0.0


@dataclass(frozen=True)
class Progress:
    """An event of `Trainer.run`.

    Attributes:
        phase: "train" or "validate".
        epoch: The running epoch, from 1.
        done, total: Snapshots of the phase.
        loss: Mean loss of the epoch so far.
        metrics: The epoch's metrics, when it has just ended.
        snapshot: What the snapshot's steps took of this rank: seconds by phase, communication, balance.
        checkpoint: Whether now is a time to checkpoint.
    """

    phase: str
    epoch: int
    done: int
    total: int
    loss: float
    metrics: dict[str, Any] | None = None
    snapshot: dict[str, Any] | None = None
    checkpoint: bool = False
