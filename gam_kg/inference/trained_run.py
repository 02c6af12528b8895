"""A finished run, opened for queries: model, history, names and the memory before any snapshot."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gam_kg.artifacts import Manifest, open_artifact, read_manifest, redo, require_same
from gam_kg.distributed.communicator import Communicator
from gam_kg.distributed.snapshots import read_snapshots
from gam_kg.errors import ArtifactError, GamKGError
from gam_kg.graph.message_graph import MessageGraph
from gam_kg.graph.snapshot import Snapshot
from gam_kg.graph.temporal_graph import TemporalGraph, read_names
from gam_kg.graph.update_chain import Update, read_updates
from gam_kg.history.index import HistoryIndex
from gam_kg.history.sharded import build_history, copy_history
from gam_kg.history.stored import StoredHistory
from gam_kg.inference.state import State, can_advance, read_states
from gam_kg.ingest.names import as_integers, clean_names
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.vocabulary import Vocabulary, vocabulary_hash
from gam_kg.nn.model import GAMLSTM
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.out_of_memory import naming_knobs
from gam_kg.ops.precision import float32_products
from gam_kg.training.calibration import temperature_at
from gam_kg.training.checkpoint import load_model
from gam_kg.training.evaluate import ModelScorer, Tick, roll
from gam_kg.training.newest_weights import has_weights
from gam_kg.training.step import ShardedModel
from gam_kg.training.step_batch import to_device

logger = logging.getLogger("gam_kg")
Stored = TypeVar("Stored")


@dataclass(frozen=True)
class TrainedRun:
    """The artifacts of a run in memory, as a rank has them; queries are answered in a world of one.

    Attributes:
        path: Folder of the run.
        sharded: The model, in evaluation mode, and the ranks.
        graph: The rank's facts, those after training included.
        entities, relations: Names by id.
        axis: Timestamps ↔ snapshots.
        graph_manifest, checkpoint_manifest: Those of the artifacts.
        updates: What was added to the graph since it was prepared, in order.
    """

    path: Path
    sharded: ShardedModel
    graph: TemporalGraph
    entities: Vocabulary
    relations: Vocabulary
    axis: TimeAxis
    graph_manifest: Manifest
    checkpoint_manifest: Manifest
    updates: tuple[Update, ...] = ()

    @classmethod
    @naming_knobs(lambda: "opening the run", "more workers (train.num_workers)")
    def load(
        cls,
        path: Path,
        device: torch.device | str = "cpu",
        communicator: Communicator | None = None,
        *,
        verified: bool = False,
        updated: bool = True,
        pending: Path | None = None,
    ) -> "TrainedRun":
        """Open a run folder that has `graph/` and `checkpoint/`, with its updates. A collective.

        Args:
            path: The folder.
            device: Where to compute.
            communicator: The ranks; None for a world of one.
            verified: Whether the caller has just verified the files of both artifacts; else this does. Those of updates
                are always verified.
            updated: Whether with its updates; else as it was prepared and trained.
            pending: Folder of an update that follows these but is not among them yet.

        Raises:
            ArtifactError: One is missing, unfinished or damaged, or they do not belong together.
            EvaluationError: A weight is NaN or infinite.
        """
        if not path.is_dir():
            raise ArtifactError(f"{path}: no such run folder; expected one that gam-kg run has made")
        communicator, graph_path = communicator or Communicator(), path / "graph"
        for kind in () if verified else ("graph", "checkpoint"):
            share = communicator.rank, communicator.world_size
            communicator.together(lambda kind=kind, share=share: open_artifact(path / kind, kind, share=share))
        updates: tuple[Update, ...] = ()
        if updated:
            updates = communicator.together(lambda: read_updates(path, read_manifest(graph_path, "graph")))
        if pending is not None:
            updates = *updates, Update(pending, read_manifest(pending, "update"))
        model, graph, *manifests = load_model(path / "checkpoint", graph_path, communicator, updates)
        sharded, axis = ShardedModel(model.to(device), communicator), TimeAxis(**manifests[0].content["time"])
        names = (read_names(graph_path, kind, updates) for kind in ("entity", "relation"))
        entities, relations = map(Vocabulary, names, ("entity", "relation"))
        vocabulary = vocabulary_hash(entities, relations)
        if not updates:
            require_same("vocabulary", vocabulary, manifests[0].content["vocabulary"], graph_path)
        elif vocabulary != updates[-1].content["vocabulary"]:
            raise ArtifactError(f"{updates[-1].path} was made for a graph with other names; {redo('update')}")
        return cls(path, sharded, graph, entities, relations, axis, *manifests, updates)

    @property
    def model(self) -> GAMLSTM:
        """The model, in evaluation mode."""
        return self.sharded.model

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.entity.device

    @property
    def trained_horizon(self) -> int:
        """The largest horizon of queries in training; see `Queries`."""
        times = self.graph.times_in("train")
        return max(1, min(self.checkpoint_manifest.config["train"]["max_horizon"], times[-1] - times[0]))

    @cached_property
    def as_prepared(self) -> "TrainedRun":
        """The run without its updates. A collective at its first use."""
        if not self.updates:
            return self
        return TrainedRun.load(self.path, self.device, self.sharded.communicator, verified=True, updated=False)

    def with_updates(self, updates: tuple[Update, ...]) -> "TrainedRun":
        """The same run, whose pending update is now the last one of these; what it has in memory stays."""
        run = replace(self, updates=updates)
        vars(run).update({name: vars(self)[name] for name in ("history", "_scorers") if name in vars(self)})
        return run

    def copy(self) -> "TrainedRun":
        """The same run with a history and a memory that go on by themselves; what does not change is shared."""
        run = replace(self)
        shared = ("states", "given_names", "as_prepared")
        vars(run).update({name: vars(self)[name] for name in shared if name in vars(self)})
        if "history" in vars(self):
            vars(run)["history"] = copy_history(self.history)
            vars(run)["_scorers"] = [scorer.copy(run.history) for scorer in self._scorers]
        return run

    @cached_property
    def states(self) -> list[State]:
        """The stored states, the latest first."""
        return read_states(self.path, *self.made_from)

    @property
    def made_from(self) -> tuple[Manifest, Manifest, tuple[Update, ...]]:
        """Manifests of the graph and of the checkpoint, and the updates."""
        return self.graph_manifest, self.checkpoint_manifest, self.updates

    @cached_property
    def history(self) -> HistoryIndex:
        """The history index of the graph, as far as it was last advanced. A collective at its first use."""
        found = self._restored(self._history_of, self.graph.end)
        stored = None if found is None else found[1]
        return build_history(self.graph, self.model.config.history, self.sharded.communicator, stored)

    @cached_property
    def search_vectors(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Search vectors of all entities and when these were last seen, before the snapshot that was searched last."""
        return {}

    def temperature(self, horizon: int) -> float:
        """What scores of queries of a horizon are divided by for probabilities."""
        return temperature_at(self.checkpoint_manifest.content["temperatures"], horizon)

    @float32_products()
    def memory_before(self, snapshot: int, tick: Tick = lambda: None, *, anew: bool = False) -> Memory:
        """The memory after all facts before a snapshot, not to be changed. A collective.

        No history is built, and ranks gather no queries.

        Args:
            snapshot: The first snapshot that is not in the memory.
            tick: Called after each snapshot.
            anew: Start from the first fact, not from a stored memory.
        """
        observed = self._scorers[-1].end if self._scorers and not anew else snapshot + 1
        if observed <= snapshot and not any(observed <= time < snapshot for time in self.graph.times):
            return self._scorers[-1].memory
        found = None if anew else self._restored(self._memory_of, snapshot)
        after, memory = (-1, self.model.empty_memory()) if found is None else (found[0].after, found[1])
        for facts in self.graph.read([time for time in self.graph.times if after < time < snapshot]):
            self.sharded.advance(memory, to_device(MessageGraph.of(facts, self.graph.partition), self.device))
            tick()
        return memory

    def scorer_before(self, snapshot: int, tick: Tick = lambda: None) -> ModelScorer:
        """A scorer that has observed all facts before a snapshot, with `history`. A collective.

        It goes on from where the last one is, if that is not later, else from a stored state, else from the first fact.
        """
        scorer, history = self._scorers[-1] if self._scorers else None, self.history
        if scorer is None or scorer.end != history.end or scorer.end > snapshot:
            scorer, _ = self.restored_scorer(snapshot)
        roll([scorer], history, self.snapshots(history.end, snapshot), tick)
        return scorer

    def restored_scorer(self, before: int, *, with_baselines: bool = False) -> tuple[ModelScorer, StoredHistory | None]:
        """A scorer that has observed what the latest state before a snapshot has, with `history`. A collective.

        Args:
            before: The snapshot.
            with_baselines: Whether only states count that the untrained baselines can go on from.

        Returns:
            The scorer, and the history of the state; without one a scorer that has observed nothing, and None.
        """
        history = self.history
        states = can_advance(self.states, baselines=with_baselines)
        found = self._restored(lambda state: (self._memory_of(state), self._history_of(state)), before, states)
        self._histories.clear()
        memory, stored = (None, None) if found is None else found[1]
        if stored is None:
            history.reset()
        elif history.end != stored.end:
            stored.restore(history)
        self._scorers[:] = [ModelScorer(self.sharded, history, memory)]
        return self._scorers[0], stored

    def vectors_made(self, memory: Memory) -> Tensor | None:
        """The vectors of the rank's entities after a memory, (num_rows, dim), where the scorer of it has made them."""
        return next((scorer.vectors_made for scorer in self._scorers if scorer.memory is memory), None)

    def forget_vectors(self) -> None:
        """Free the vectors that were made; they are made anew when they are needed."""
        for scorer in self._scorers:
            scorer.vectors_made = None

    def snapshots(self, first: int, end: int) -> Iterator[Snapshot]:
        """The snapshots in `[first, end)`, in time order. A collective."""
        times = [time for time in self.graph.times if first <= time < end]
        return read_snapshots(self.graph, times, self.sharded.communicator)

    def spelt(self, names: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """Names that a user gives, as the graph spells them: stripped, and folded where it was prepared so."""
        folds = self.graph_manifest.config.get("data", {}).get("normalize_names", ())
        return clean_names(names, folds)

    @cached_property
    def given_names(self) -> dict[str, pa.Array]:
        """Names by id as the facts have them, "entity" and "relation": int64 where all are integers, else text."""
        found = {"entity": self.entities.names, "relation": self.relations.names}
        were = self.graph_manifest.content.get("integer_names", ())
        return {kind: as_integers(names) if kind in were else names for kind, names in found.items()}

    def provenance(self, last: int) -> dict[str, str]:
        """What metadata of Parquet say of a table that was made after the facts of a snapshot."""
        tuned = [update.manifest.id for update in self.updates if has_weights(update, self.checkpoint_manifest.id)]
        model = tuned[-1] if tuned else self.checkpoint_manifest.id
        return {"gam_kg.as_of": self.axis.label(last), "gam_kg.model": model}

    def labels(self, snapshots: np.ndarray) -> pa.Array:
        """Snapshots as users write them, large_string; null for negative ones (never)."""
        distinct, index = np.unique(snapshots, return_inverse=True)
        texts = [None if snapshot < 0 else self.axis.label(snapshot) for snapshot in distinct.tolist()]
        return pa.array(texts, pa.large_string()).take(pa.array(index))

    @cached_property
    def _scorers(self) -> list[ModelScorer]:
        """The scorer that was used last."""
        return []

    @cached_property
    def _histories(self) -> dict[Path, StoredHistory]:
        """The state that `history` was read from, until a scorer starts from it."""
        return {}

    def _history_of(self, state: State) -> StoredHistory:
        if state.path not in self._histories:
            self._histories[state.path] = state.history(self.graph.partition)
        return self._histories[state.path]

    def _memory_of(self, state: State) -> Memory:
        no_rows = Memory.empty(0, self.model.config.dim, like=self.model.entity.detach())
        return state.memory(self.graph.partition, no_rows)

    def _restored(
        self, read: Callable[[State], Stored], before: int, states: Sequence[State] | None = None
    ) -> tuple[State, Stored] | None:
        """The latest state before a snapshot that can be read, and what is read of it; None without. A collective."""
        for state in self.states if states is None else states:
            if state.after < before:
                try:
                    return state, self.sharded.communicator.together(lambda state=state: read(state))
                except GamKGError as error:
                    logger.warning("a stored state is not used: %s", error)
        return None
