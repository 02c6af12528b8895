"""A run in memory, at several moments and by name: what the methods of `gam_kg.api.Run` work with."""

import os
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import date
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from gam_kg.config import Config
from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import ConfigError, DataError
from gam_kg.inference.answers import find_names
from gam_kg.inference.frames import frame
from gam_kg.inference.moments import Moments
from gam_kg.inference.one_version import one_version
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.training.run import threads

Name = str | int
At = str | int | date | None


class OpenedRun:
    """A run that is open.

    Args:
        trained_run: The run, in a world of one.

    Attributes:
        trained_run: The same: what the library itself works with.
    """

    def __init__(self, trained_run: TrainedRun) -> None:
        self.trained_run = trained_run
        self._moments = Moments(trained_run)
        self._lock = threading.RLock()
        self._num_threads = threads(Config())

    def __repr__(self) -> str:
        run, graph = self.trained_run, self.trained_run.graph
        counts = {
            "entities": len(run.entities),
            "relations": len(run.relations),
            "facts": int(graph.num_facts.sum()),
            "updates": len(run.updates),
        }
        shown = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        return f"Run({self.path.name!r}: {shown}, {self.first} to {self.last})"

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return self.trained_run.path

    @property
    def first(self) -> str:
        """Time of the first facts."""
        return self.trained_run.axis.label(self.trained_run.graph.times[0])

    @property
    def last(self) -> str:
        """Time of the last facts."""
        return self.trained_run.axis.label(self.trained_run.graph.end - 1)

    @cached_property
    def entities(self) -> pd.Series:
        """Names of the entities by id; integers where the facts have integers."""
        return self._names("entity")

    @cached_property
    def relations(self) -> pd.Series:
        """Names of the relations by id."""
        return self._names("relation")

    @contextmanager
    def _working(self) -> Generator[None]:
        """One question at a time may use a moment, on as many CPU threads as the commands use.

        Raises:
            ArtifactError: The run was replaced after it was loaded.
        """
        with self._lock, one_version(self.trained_run):
            before = torch.get_num_threads()
            torch.set_num_threads(self._num_threads)
            try:
                yield
            finally:
                torch.set_num_threads(before)

    def _across(self, snapshots: np.ndarray) -> TrainedRun:
        """The run, which may be taken from the first to the last of some snapshots."""
        if not len(snapshots):
            return self.trained_run
        return self._moments.between(int(snapshots.min()), int(snapshots.max()))

    def _names(self, kind: str) -> pd.Series:
        return frame(pa.table({kind: self.trained_run.given_names[kind]}))[kind]

    def _ids(self, names: Name | Iterable[Name]) -> np.ndarray:
        """Ids of some entities, or of one, distinct and ascending, int64 (num_ids,)."""
        names = [names] if isinstance(names, str) or not isinstance(names, Iterable) else names
        found = np.unique(find_names(self.trained_run, self.trained_run.entities, names))
        if not len(found):
            raise DataError("among: there are no names; give some, or None for all entities")
        return found

    def _last_of(self, at: At) -> int:
        """The last snapshot whose facts count at a time."""
        last = self.trained_run.graph.end - 1
        return min(self.trained_run.axis.snapshot_at(plain_time(at), last), last)

    @cached_property
    def _columns(self) -> ColumnsConfig:
        """The names of the columns that the facts had."""
        return ColumnsConfig(**self.trained_run.graph_manifest.config.get("data", {}).get("columns", {}))


def relation_of(relation: Name | None) -> Name:
    """The relation of a question, which must have one.

    Raises:
        DataError: There is none.
    """
    if relation is None:
        raise DataError("give the relation of the question; run.relations has all of them")
    return relation


def path_text(path: str | PathLike[str], name: str) -> str:
    """A path or URI as text.

    Raises:
        ConfigError: It is neither.
    """
    try:
        return os.fsdecode(path)
    except TypeError:
        raise ConfigError(f"{name}={path!r}: expected a path or a URI, found {type(path).__name__}") from None


def plain_time(at: At) -> At:
    """A time whose integers are those of Python."""
    return int(at) if isinstance(at, np.integer) else at


def positive(k: int) -> int:
    """A number of answers.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ConfigError(f"k={k!r}: expected a whole number, at least 1")
    return int(k)


def one_of(value: str, name: str, *allowed: str) -> None:
    """Refuse a value of an argument that is not allowed.

    Raises:
        ConfigError: It is another value.
    """
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: allowed here: {', '.join(map(repr, allowed))}")


@contextmanager
def named(method: str) -> Generator[None]:
    """Messages about a table name the method that it was given to."""
    try:
        yield
    except DataError as error:
        text = str(error)
        raise DataError(f"{method}: {text.removeprefix('predict.queries: ')}") from None
