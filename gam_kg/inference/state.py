"""Stored states of a run, `state/after=N/`: memory and history after snapshot N, from which a run goes on.

So what opening a run takes follows from the facts after the last state, not from all facts. A state is of one graph and
one checkpoint, and of the updates until then. It serves as long as later updates add no facts at or before N.
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from gam_kg.artifacts import Content, Manifest, open_artifact, read_manifest, redo, write_artifact
from gam_kg.config import UpdateConfig
from gam_kg.errors import ArtifactError
from gam_kg.graph.partition import Partition
from gam_kg.graph.update_chain import Update, chain_id, sizes, updates_after
from gam_kg.history.index import HistoryIndex
from gam_kg.history.stored import PAIRS, StoredHistory, store_history
from gam_kg.metrics.all_baselines import Baselines
from gam_kg.nn.recurrence import Memory
from gam_kg.ops.finite import require_finite
from gam_kg.output import discard, remove
from gam_kg.training.checkpoint import load_rows, load_tensors, save_rows, save_tensors, shards
from gam_kg.training.newest_weights import has_weights

STATES = "state"
"""The folder of a run that has its states."""

_MEMORY, _HISTORY, _PAIRS = "memory", "history", "history_pairs.safetensors"
_LAYOUT = 2
"""Of the files: a state of another layout is not used."""

_ROOM = 16
"""The memory of a state has rows for more entities, this part of those that are there, so that it can stay in a mapped
file when entities come."""

_OLD = set[Path]()
"""States of other layouts that this process has warned of."""

logger = logging.getLogger("gam_kg")


@dataclass(frozen=True)
class State:
    """A stored state.

    Attributes:
        path: Its folder.
        manifest: Its manifest. The content has `after_snapshot`; of the graph as it was `num_entities` and
            `num_relations`, without inverses; `num_rows`, the entities that its memory has rows for; and `baselines`,
            whether it has what these have counted.
    """

    path: Path
    manifest: Manifest

    @property
    def after(self) -> int:
        """The last snapshot in it."""
        return self.manifest.content["after_snapshot"]

    @property
    def has_baselines(self) -> bool:
        """Whether the untrained baselines can go on from it."""
        return self.manifest.content["baselines"]

    def memory(self, partition: Partition, like: Memory) -> Memory:
        """The rank's part of the memory, where possible in a mapped file, whose rows are copied when they change.

        Args:
            partition: The rank's entities, those that came later included.
            like: A memory of the model, whose sizes the stored one must have.

        Raises:
            ArtifactError: It is damaged or of another model.
        """
        self._require_whole(_MEMORY, partition)
        stored = replace(partition, num_entities=self.manifest.content["num_rows"])
        found = {
            name: load_rows(self.path, f"{_MEMORY}_{name}", stored, like.hidden.device, copy=False)[name]
            for name in vars(like)
        }
        kinds = [{name: (value.shape[1:], value.dtype) for name, value in one.items()} for one in (found, vars(like))]
        if kinds[0] != kinds[1]:
            raise ArtifactError(f"{self.path}: its memory is of another model; {redo(STATES)}")
        return Memory(**found).resized(partition.num_rows)

    def history(self, partition: Partition) -> StoredHistory:
        """What a history index had counted; raises ArtifactError where it is damaged."""
        self._require_whole(_HISTORY, partition)
        content, parts = self.manifest.content, [load_tensors(path) for path in shards(self.path, _HISTORY)]
        if (pairs := self.path / _PAIRS).exists():
            parts[0] |= load_tensors(pairs)
        return StoredHistory(self.after + 1, content["num_entities"], 2 * content["num_relations"], parts)

    def _require_whole(self, part: str, partition: Partition) -> None:
        found = open_artifact(self.path, STATES, part=part, share=(partition.rank, partition.world_size))
        if found.id != self.manifest.id:  # another process has stored a state after the same snapshot
            raise ArtifactError(f"{self.path} was replaced after this run was opened")


def read_states(run: Path, graph: Manifest, checkpoint: Manifest, updates: Sequence[Update]) -> list[State]:
    """The states of a run that still serve, the latest first; others, and damaged ones, are left out."""
    found = []
    for path in (run / STATES).glob("after=*"):
        try:
            state = State(path, read_manifest(path, STATES))
        except ArtifactError as error:
            logger.warning("a stored state is not used: %s", error)
            continue
        inputs = state.manifest.inputs
        newer = updates_after(updates, inputs["updates"])
        if state.manifest.config.get("layout") != _LAYOUT:
            if path not in _OLD:
                _OLD.add(path)
                logger.warning(
                    "a stored state is not used: %s was written by another version of gam-kg; the next gam-kg update "
                    "writes one that is, and so does gam-kg evaluate CONFIG --force",
                    path,
                )
            continue
        same = inputs["graph"] == graph.id and inputs["checkpoint"] == checkpoint.id
        changed = newer is None or any(changes_before(update, state.after, checkpoint.id) for update in newer)
        if same and not changed:
            found.append(state)
    return sorted(found, key=lambda state: state.after, reverse=True)


def start_before(states: Sequence[State], snapshot: int) -> int:
    """The last snapshot in the latest state before a snapshot; -1 where there is none, and all starts anew."""
    return max((state.after for state in states if state.after < snapshot), default=-1)


def can_advance(states: Sequence[State], *, baselines: bool) -> list[State]:
    """The states that all scorers can go on from: with the untrained baselines, if they are among the scorers."""
    return [state for state in states if state.has_baselines or not baselines]


def write_state_part(folder: Path, memory: Memory, history: HistoryIndex, baselines: Baselines | None) -> None:
    """Write a rank's part of the files of a state: the memory, and what the history and the baselines have counted.

    Args:
        folder: Where to write.
        memory: The rank's memory.
        history: The history that it goes with.
        baselines: The baselines of this history; None: there are none.

    Raises:
        EvaluationError: A number of the memory is NaN or infinite.
        OutputError: It cannot be written.
    """
    partition = history.partition
    for name in ("hidden", "cell"):
        require_finite(getattr(memory, name), f"{name} states of the memory")
    with_room = replace(partition, num_entities=_with_room(partition.num_entities))
    room = Memory.empty(with_room.num_rows - partition.num_rows, memory.hidden.shape[1], like=memory.hidden)
    for name, rows in vars(memory).items():  # a file each, so that there is one copy of one of them at a time
        save_rows({name: torch.cat([rows, vars(room)[name]])}, folder, f"{_MEMORY}_{name}", with_room)
    part = store_history(history) if baselines is None else baselines.store()
    # Counts of pairs have their own file, which stays mapped: they are read where they are needed.
    of_pairs = {name: part.pop(name) for name in list(part) if name.startswith(PAIRS)}
    if of_pairs and partition.rank == 0:
        save_tensors(of_pairs, folder / _PAIRS)
    save_tensors(part, folder / f"{_HISTORY}-{partition.rank:05d}-of-{partition.world_size:05d}.safetensors")


@contextmanager
def state_parts(run: Path) -> Generator[Path]:
    """A folder of a run for the parts of a state until it is published; the caller owns the run's lock."""
    for left_over in run.glob(f".{STATES}-*"):  # of a process that was killed
        remove(left_over)
    with TemporaryDirectory(prefix=f".{STATES}-", dir=run) as folder:
        yield Path(folder)


def publish_state(
    run: Path,
    after: int,
    made_from: tuple[Manifest, Manifest, Sequence[Update]],
    parts: Path,
    config: UpdateConfig,
    newer: Sequence[Update] = (),
    *,
    baselines: bool = True,
) -> None:
    """Make an artifact of the parts of a state, if there are some, and remove the states that need not stay.

    Args:
        run: Folder of the run.
        after: The last snapshot in the state.
        made_from: Manifests of the graph and of the checkpoint, and the updates.
        parts: Folder with the parts of all ranks, which are moved.
        config: How many of the states that serve stay; the others do not.
        newer: Updates of the run that the state is not made from.
        baselines: Whether the parts have what the untrained baselines have counted.
    """
    graph, checkpoint, updates = made_from
    num_entities, num_relations = sizes(graph, updates)

    def write(folder: Path) -> Content:
        for part in parts.iterdir():
            part.rename(folder / part.name)
        sizes_then = {"num_entities": num_entities, "num_relations": num_relations}
        return {"after_snapshot": after, "num_rows": _with_room(num_entities), "baselines": baselines, **sizes_then}

    if any(parts.iterdir()) and config.keep_states:
        inputs = {"graph": graph.id, "checkpoint": checkpoint.id, "updates": chain_id(updates)}
        write_artifact(run / STATES / f"after={after}", Manifest.of(STATES, inputs, {"layout": _LAYOUT}), write)
    stay = {state.path for state in read_states(run, graph, checkpoint, (*updates, *newer))[: config.keep_states]}
    for path in (run / STATES).glob("after=*"):
        if path not in stay:
            discard(path)


def _with_room(num_entities: int) -> int:
    return num_entities + num_entities // _ROOM + 1


def changes_before(update: Update, after: int, checkpoint: str) -> bool:
    """Whether what was made after a snapshot, before an update, is not so any more with the update."""
    return update.content.get("first_snapshot", after + 1) <= after or has_weights(update, checkpoint)
