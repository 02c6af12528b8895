"""What an update finds: the graph of a run with its updates so far, its names, and which facts it has."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from gam_kg.artifacts import Manifest, read_manifest
from gam_kg.config import Config
from gam_kg.graph.temporal_graph import TemporalGraph, read_names
from gam_kg.graph.update_chain import Update, last_snapshot, read_open_facts
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.workflow.situation import EMBEDDINGS, Situation


@dataclass(frozen=True)
class RunBefore:
    """A run as an update finds it.

    Attributes:
        config: The configuration of the update.
        settings: The same as what is published is made with: an update may allow more bad rows than `prepare` did, and
            publishes the moment after its last fact.
        graph, checkpoint: Manifests of the artifacts.
        updates: The updates until then.
    """

    config: Config
    settings: Config
    graph: Manifest
    checkpoint: Manifest
    updates: tuple[Update, ...]

    @classmethod
    def of(cls, config: Config) -> "RunBefore":
        """The run of a configuration; raises what `Situation.of` and `Situation.require_whole` raise."""
        made = read_manifest(config.run_path / "graph", "graph").config.get("prepare", {})
        limit = made.get("max_bad_fraction", Config().prepare.max_bad_fraction)
        settings = config.changed({"embed.at": None, "prepare.max_bad_fraction": limit})
        found = Situation.of(replace(EMBEDDINGS, verb="update"), settings)
        found.require_whole()
        return cls(config, settings, found.read["graph"], found.read["checkpoint"], found.updates)

    @property
    def graph_path(self) -> Path:
        return self.config.run_path / "graph"

    @property
    def last(self) -> int:
        """The last snapshot that has facts."""
        return last_snapshot(self.graph, self.updates)

    @cached_property
    def axis(self) -> TimeAxis:
        return TimeAxis(**self.graph.content["time"])

    @cached_property
    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        entities, relations = (
            Vocabulary(read_names(self.graph_path, kind, self.updates), kind) for kind in ("entity", "relation")
        )
        return entities, relations

    @cached_property
    def facts(self) -> TemporalGraph:
        return TemporalGraph.load(self.graph_path, updates=self.updates)[0]

    @cached_property
    def open_facts(self) -> np.ndarray:
        """See `read_open_facts`."""
        return read_open_facts(self.graph_path, self.updates)

    def has(self, facts: np.ndarray) -> np.ndarray:
        """Which facts (subject, relation, object, snapshot), int64 (num_facts, 4), it has, bool (num_facts,)."""
        found = np.zeros(len(facts), bool)
        times, place = np.unique(facts[:, 3], return_inverse=True)
        here = times <= self.last
        sizes = len(self.vocabularies[0]), len(self.vocabularies[1])
        for number, snapshot in zip(np.flatnonzero(here), self.facts.read(times[here].tolist()), strict=True):
            (at,) = np.nonzero(place == number)
            is_fact = snapshot.relation < sizes[1]  # the others are their inverses
            anchored = (snapshot.other[is_fact], snapshot.relation[is_fact], snapshot.anchor[is_fact])
            known = np.stack([column.numpy() for column in anchored], 1)
            found[at] = _in(facts[at, :3], known)
        return found


def _in(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which rows, int64 (num_rows, 3), are among others, bool (num_rows,)."""
    both = np.concatenate([others, rows])
    _, number = np.unique(both, axis=0, return_inverse=True)
    return np.isin(number[len(others) :], number[: len(others)])
