"""A finished run, opened for questions: model, history, names and the memory as of any snapshot."""

from collections.abc import Iterator
from dataclasses import dataclass
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
from gam_kg.distributed.sharded_history import build_history
from gam_kg.distributed.topology import Topology
from gam_kg.errors import ArtifactError
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.train.checkpoint import load_model, load_rows, save_rows
from gam_kg.train.evaluate import ModelScorer, Tick, roll

_MEMORY = "memory"


@dataclass(frozen=True)
class TrainedRun:
    """The artifacts of a run in memory, as a rank has them; whoever asks questions is a world of one.

    Attributes:
        path: Folder of the run.
        model: In evaluation mode.
        graph: The rank's facts, those after training included.
        history: Of the graph, as far as a scorer was last rolled.
        entities, relations: Names by id.
        axis: Timestamps ↔ snapshots.
        graph_manifest, checkpoint_manifest: What the artifacts say of themselves.
    """

    path: Path
    model: GAMLSTM
    graph: TemporalGraph
    history: HistoryIndex
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
            build_history(graph, model.config.history, topology),
            entities,
            relations,
            TimeAxis.from_dict(graph_manifest.content["time"]),
            graph_manifest,
            checkpoint_manifest,
        )

    def scorer_before(self, snapshot: int, tick: Tick = lambda: None) -> ModelScorer:
        """A scorer that remembers all facts before a snapshot, from the stored memory if that is not too late.

        Args:
            snapshot: First snapshot not remembered.
            tick: Called after each snapshot rolled.
        """
        memory, after = self._stored_memory(snapshot)
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

    def _stored_memory(self, snapshot: int) -> tuple[Memory | None, int]:
        embeddings = self.path / "embeddings"
        try:
            manifest = read_manifest(embeddings, "embeddings")
            require_same("checkpoint", manifest.inputs["checkpoint"], self.checkpoint_manifest.id, embeddings)
        except ArtifactError:
            return None, -1
        after = manifest.content["as_of_snapshot"]
        if after >= snapshot:
            return None, -1
        return Memory(**load_rows(embeddings, _MEMORY, self.graph.partition, self.graph.device)), after


def save_memory(memory: Memory, folder: Path, partition: Partition) -> None:
    """Write a rank's memory for `TrainedRun.scorer_before` to start from."""
    save_rows(vars(memory), folder, _MEMORY, partition)
