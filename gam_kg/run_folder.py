"""The folders of a run, and how a new graph and the checkpoint made from it take the place of the old ones together.

A checkpoint can be read only beside the graph that it was made from. While there is one, a new graph waits in
`graph.next/`, training reads it there and writes `checkpoint.next/`, and when that is whole both are put in place. Only
the owner of the run's lock moves them. A reader between the renames finds two that do not belong together, and says so.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from gam_kg.artifacts import Manifest, read_manifest
from gam_kg.errors import ArtifactError
from gam_kg.output import put_in_place, recover, remove
from gam_kg.versions import VERSIONED, recover_versions

logger = logging.getLogger("gam_kg")

_WAITING = ".next"
_WAIT = ("graph", "checkpoint")
_IN_A_RUN = (*_WAIT, *(kind + _WAITING for kind in _WAIT), "evaluation", "report")


def waiting(run: Path, kind: str) -> Path:
    """Where a new graph waits for its checkpoint, or a new checkpoint to be put in place with its graph."""
    return run / f"{kind}{_WAITING}"


def graph_to_train(run: Path) -> Path:
    """The graph that training reads: the one that waits, if one does."""
    path = waiting(run, "graph")
    return path if path.exists() else run / "graph"


def place_to_write(run: Path, kind: str) -> Path:
    """Where an artifact is written: in place, or where it waits while the old graph and checkpoint are needed."""
    if kind == "graph":
        must_wait = _is_from(_manifest(run / "checkpoint"), _manifest(run / "graph"))
    else:
        must_wait = kind == "checkpoint" and waiting(run, "graph").exists()
    return waiting(run, kind) if must_wait else run / kind


def settle(run: Path) -> None:
    """Put in place what need not wait any longer, and remove what waits in vain or a killed process has left.

    The caller owns the run's lock.
    """
    for name in _IN_A_RUN:
        recover(run / name)
    for folder in (*VERSIONED, "state", "updates", "index"):
        recover_versions(run / folder)
    for left_over in run.glob(".weights-*"):
        remove(left_over)
    _place_waiting(run)
    _set_updates_aside(run)


def _place_waiting(run: Path) -> None:
    new_graph, new_checkpoint = waiting(run, "graph"), waiting(run, "checkpoint")
    if not new_graph.exists() and not new_checkpoint.exists():
        return
    old, new, trained = _manifest(run / "graph"), _manifest(new_graph), _manifest(new_checkpoint)
    if new is None:
        remove(new_graph)
    elif (old and old.id == new.id) or _is_from(trained, new) or place_to_write(run, "graph") != new_graph:
        put_in_place(new_graph, run / "graph")
    if _is_from(trained, _manifest(run / "graph")):
        put_in_place(new_checkpoint, run / "checkpoint")
    else:
        remove(new_checkpoint)


def _set_updates_aside(run: Path) -> None:
    """Move the updates of a graph that another one has replaced away from those that are read."""
    updates, graph = run / "updates", _manifest(run / "graph")
    first = next(iter(sorted(updates.glob("[0-9]*"))), None)
    if graph is None or first is None:
        return
    with suppress(ArtifactError):
        if (other := read_manifest(first, "update").inputs["graph"]) != graph.id:
            aside = next(path for path in _numbered(run / f"updates.of-{other}") if not path.exists())
            updates.rename(aside)
            logger.warning(
                "the updates were of the graph before; they are in %s now, and their facts are in the new graph only "
                "if data.facts has them",
                aside,
            )


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.name}.{number}") for number in count(2))


def remove_finished_training(run: Path) -> None:
    """Remove the training that the checkpoint is of, which a process that was killed may have left."""
    if made := _manifest(run / "checkpoint"):
        remove(run / "training" / made.key)
        with suppress(OSError):  # there is none, or others were interrupted
            (run / "training").rmdir()


def _is_from(checkpoint: Manifest | None, graph: Manifest | None) -> bool:
    return checkpoint is not None and graph is not None and checkpoint.inputs.get("graph") == graph.id


def _manifest(path: Path) -> Manifest | None:
    try:
        return read_manifest(path, path.name.removesuffix(_WAITING))
    except ArtifactError:
        return None
