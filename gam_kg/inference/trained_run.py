"""A finished run, opened for questions: model, history, names and the memory as of any snapshot."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from gam_kg.artifacts import Manifest, read_manifest, require_same
from gam_kg.data.graph import TemporalGraph, read_names
from gam_kg.data.history import HistoryIndex
from gam_kg.data.partition import Partition
from gam_kg.data.snapshot import Moment
from gam_kg.data.time_axis import TimeAxis
from gam_kg.data.vocabulary import Vocabulary, vocabulary_hash
from gam_kg.distributed.moments import read_moments
from gam_kg.distributed.neighbourhood import Neighbourhood
from gam_kg.distributed.sharded_history import build_history
from gam_kg.distributed.topology import Topology
from gam_kg.errors import ArtifactError
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.train.checkpoint import load_model, load_rows, save_rows
from gam_kg.train.evaluate import ModelScorer, Tick, roll
from gam_kg.train.step import remember

_MEMORY = "memory"


@dataclass(frozen=True)
class TrainedRun:
    """The artifacts of a run in memory, as a rank has them; whoever asks questions is a world of one.

    Attributes:
        path: Folder of the run.
        model: In evaluation mode.
        graph: The rank's facts, those after training included.
        entities, relations: Names by id.
        axis: Timestamps ↔ snapshots.
        graph_manifest, checkpoint_manifest: What the artifacts say of themselves.
    """

    path: Path
    model: GAMLSTM
    graph: TemporalGraph
    entities: Vocabulary
    relations: Vocabulary
    axis: TimeAxis
    graph_manifest: Manifest
    checkpoint_manifest: Manifest

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu", topology: Topology | None = None) -> "TrainedRun":
        """Open a run folder that has `graph/` and `checkpoint/`. A collective.

        Raises:
            ArtifactError: One is missing or unfinished, or they do not belong together.
        """
        if not path.is_dir():
            raise ArtifactError(f"{path}: no such run folder; expected one that gam-kg run has made")
        topology = topology or Topology()
        model, graph, graph_manifest, checkpoint_manifest = load_model(path / "checkpoint", path / "graph", topology)
        graph = graph.to(device)
        entities = Vocabulary(read_names(path / "graph", "entity"), "entity")
        relations = Vocabulary(read_names(path / "graph", "relation"), "relation")
        recorded = graph_manifest.content["vocabulary"]
        require_same("vocabulary", vocabulary_hash(entities, relations), recorded, path / "graph")
        return cls(
            path,
            model.to(device),
            graph,
            entities,
            relations,
            TimeAxis.from_dict(graph_manifest.content["time"]),
            graph_manifest,
            checkpoint_manifest,
        )

    @cached_property
    def history(self) -> HistoryIndex:
        """Of the graph, as far as a scorer was last rolled. A collective where it is first asked for."""
        return build_history(self.graph, self.model.config.history, self.model.topology)

    def memory_before(self, snapshot: int, tick: Tick = lambda: None, *, anew: bool = False) -> Memory:
        """What is remembered of all facts before a snapshot. A collective.

        Vectors need no more: the history is neither built nor told, and ranks tell each other no questions.

        Args:
            snapshot: First snapshot not remembered.
            tick: Called after each snapshot remembered.
            anew: Start from the first fact, not from a stored memory.
        """
        memory, after = self._empty_memory() if anew else self._start(snapshot)
        for facts in self.graph.read([time for time in self.graph.times if after < time < snapshot]):
            remember(self.model, memory, Neighbourhood.of(facts, self.graph.partition))
            tick()
        return memory

    def scorer_before(self, snapshot: int, tick: Tick = lambda: None) -> ModelScorer:
        """A scorer that remembers all facts before a snapshot, from the stored memory if that is not too late.

        Args:
            snapshot: First snapshot not remembered.
            tick: Called after each snapshot rolled.
        """
        memory, after = self._start(snapshot)
        scorer = ModelScorer(self.model, self.history, memory)
        self.history.reset()
        roll([], self.history, self.moments(0, after + 1))
        roll([scorer], self.history, self.moments(after + 1, snapshot), tick)
        return scorer

    def moments(self, first: int, end: int) -> Iterator[Moment]:
        """The snapshots in `[first, end)`, in time order. A collective."""
        times = [time for time in self.graph.times if first <= time < end]
        return read_moments(self.graph, times, self.model.topology)

    def labels(self, snapshots: np.ndarray) -> pa.Array:
        """Snapshots as users write them, large_string; null for negative ones (never)."""
        distinct, index = np.unique(snapshots, return_inverse=True)
        texts = [None if snapshot < 0 else self.axis.label(snapshot) for snapshot in distinct.tolist()]
        return pa.array(texts, pa.large_string()).take(pa.array(index))

    def _start(self, snapshot: int) -> tuple[Memory, int]:
        """The memory to start from, the stored one if there is one, and the last snapshot in it."""
        return self._stored_memory(snapshot) or self._empty_memory()

    def _empty_memory(self) -> tuple[Memory, int]:
        like = self.model.entity.detach()
        return Memory.empty(self.graph.partition.num_rows, self.model.config.dim, like=like), -1

    def _stored_memory(self, snapshot: int) -> tuple[Memory, int] | None:
        embeddings = self.path / "embeddings"
        try:
            manifest = read_manifest(embeddings, "embeddings")
            require_same("checkpoint", manifest.inputs["checkpoint"], self.checkpoint_manifest.id, embeddings)
        except ArtifactError:
            return None
        after = manifest.content["as_of_snapshot"]
        if after >= snapshot:
            return None
        return Memory(**load_rows(embeddings, _MEMORY, self.graph.partition, self.graph.device)), after


def save_memory(memory: Memory, folder: Path, partition: Partition) -> None:
    """Write a rank's memory for `TrainedRun.memory_before` to start from."""
    save_rows(vars(memory), folder, _MEMORY, partition)
