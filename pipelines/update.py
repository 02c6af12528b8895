"""The update verb: new facts into a finished run, embeddings and predictions out, without training."""

import json
import logging
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import Content, Manifest
from gam_kg.config import Config
from gam_kg.delivery import deliver
from gam_kg.errors import ConfigError, DataError
from gam_kg.graph.temporal_graph import TemporalGraph, read_names
from gam_kg.graph.update_chain import Update, last_snapshot, read_open_facts, read_updates, write_update
from gam_kg.inference.state import publish_state, read_states, state_parts, write_state_part
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.inference.update import advance_run, write_over_time
from gam_kg.ingest.new_facts import LATE, NewFacts, read_new_facts
from gam_kg.ingest.quarantine import Quarantine
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.parquet import write_table
from gam_kg.train.fine_tune import fine_tune, newest_optimizer_state
from gam_kg.versions import VERSIONED
from .embed import embed
from .predict import predict
from .progress import counted
from .ranks import OnEvent, on_ranks, open_run
from .report import show_table
from .stages import owned
from .workflow import EMBEDDINGS, Situation

SCORES = "scores.json"
_SHOWN = 10

logger = logging.getLogger("gam_kg")


@dataclass(frozen=True)
class _Before:
    """A run before an update."""

    config: Config
    graph: Manifest
    checkpoint: Manifest
    updates: tuple[Update, ...]

    @classmethod
    def of(cls, config: Config) -> "_Before":
        """The run of a configuration; raises what `Situation.of` raises."""
        found = Situation.of(EMBEDDINGS, config).read
        updates = read_updates(config.run_path, found["graph"])
        return cls(config, found["graph"], found["checkpoint"], updates)

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


def update(
    config: Config, facts: str | None = None, *, fine_tune_on: int = 0, to: str | None = None, take_over: bool = False
) -> Path:
    """Add facts to a run: what is new is ranked first, then added; embeddings and predictions follow.

    Facts that the run has already are left out. An update is there as a whole or not at all; what a process that was
    killed has not published, the next one does.

    Args:
        config: The run's configuration.
        facts: Parquet or CSV file, folder, glob or URI; None: `data.facts`.
        fine_tune_on: How many of the newest snapshots with facts the model then trains on; 0: it does not.
        to: Folder or URI that gets copies of the versions; None: none.
        take_over: Work in a run folder whose owner, on another machine, gives no sign of life.

    Returns:
        The version of the embeddings.

    Raises:
        ArtifactError: The run is not finished, or damaged.
        DataError: The facts cannot be read, too many rows are bad, or some are late and `update.late` is "refuse".
        OutputError, StorageError: `to` cannot be written.
    """
    with owned(config, "update", take_over=take_over):
        before = _Before.of(config)
        new = _read(before, facts)
        rows = new.rows[~before.has(new.rows)]
        _log_read(before, new, len(rows))
        (config.run_path / Quarantine.NAME).unlink(missing_ok=True)
        closes = not np.array_equal(new.open_facts, before.open_facts)
        opened = _add(before, new, rows) if len(rows) or closes else None
        if fine_tune_on:
            opened = None
            _fine_tune(_Before.of(config), fine_tune_on)
        if opened is None and config.train.most_workers <= 1:
            opened = open_run(config)
        version = embed(config, opened=opened)
        predict(config, opened=opened)
        if to is not None:
            for kind in VERSIONED:
                logger.info("%s: copied to %s", kind, deliver(config.run_path / kind, to, config.publish))
        updates = read_updates(config.run_path, before.graph)
        _show(config, updates, len(before.updates))
        _record(config, updates, before.axis)
        return version


def _read(before: _Before, facts: str | None) -> NewFacts:
    """The facts of the files, where late ones may be refused."""
    config, place = before.config, facts or before.config.data.facts
    if place is None:
        raise ConfigError(
            "--facts is not given, and the run has no data.facts; give a Parquet file, folder, glob or URI"
        )
    late = config.update.late

    def is_usable(facts: np.ndarray) -> np.ndarray:
        return (facts[:, 3] >= before.last) | before.has(facts)

    new = read_new_facts(
        place,
        config,
        before.graph,
        *before.vocabularies,
        before.axis,
        open_facts=before.open_facts,
        last=before.last,
        is_stored=None if late == "replay" else is_usable,
    )
    if late == "refuse" and (number := new.quarantined.get(LATE)):
        first = new.quarantine.filter(pa.compute.equal(new.quarantine["reason"], LATE)).slice(0, 1).to_pylist()[0]
        raise DataError(
            f"{number} row(s) are before {before.axis.label(before.last)}, the last snapshot of the run, and not in "
            f"it; the first is row {first['row']} of {first['file']}: ({first['subject']}, {first['relation']}, "
            f"{first['object']}, {first['timestamp']}). update.late=replay goes back and adds them; "
            "update.late=quarantine leaves them out"
        )
    return new


def _log_read(before: _Before, new: NewFacts, num_added: int) -> None:
    known = len(new.rows) - num_added
    more = [f"{number:,} {reason}" for reason, number in new.quarantined.items()]
    logger.info(
        "update: %s",
        ", ".join(
            [
                f"{new.num_rows:,} rows",
                f"{num_added:,} new facts",
                f"{known:,} that the run has already",
                f"{len(new.entities):,} new entities",
                f"{len(new.relations):,} new relations",
                *more,
            ]
        ),
    )


def _add(before: _Before, new: NewFacts, rows: np.ndarray) -> TrainedRun | None:
    """Write the update, and the state where it is time for one; returns the run as this process has it open."""
    config, run, opened = before.config, before.config.run_path, list[TrainedRun]()

    with state_parts(run) as parts:
        settings = {
            "first": int(rows[:, 3].min(initial=before.last + 1)),
            "first_ranked": before.last + 1,
            "num_ranked": config.update.score_facts,
            "scores": str(parts / SCORES),
            "state": str(parts) if _needs_state(before, rows) else None,
        }

        def advance(folder: Path) -> Content:
            if config.train.most_workers <= 1:
                opened.append(open_run(config, folder))
            on_ranks(config, update_worker, settings, "update", opened=opened[0] if opened else None, pending=folder)
            scores = json.loads((parts / SCORES).read_text(encoding="utf-8"))
            (parts / SCORES).unlink()
            return {"scores": scores}

        added = write_update(
            run,
            graph=before.graph,
            checkpoint=before.checkpoint,
            previous=before.updates[-1] if before.updates else None,
            vocabularies=before.vocabularies,
            facts=rows,
            entities=new.entities,
            relations=new.relations,
            open_facts=new.open_facts,
            quarantine=new.quarantine,
            inputs=new.inputs,
            config={"update": {"late": config.update.late}},
            write_more=advance,
        )
        updates = *before.updates, added
        publish_state(
            run, last_snapshot(before.graph, updates), (before.graph, before.checkpoint, updates), parts, config.update
        )
    return opened[0].with_updates(updates) if opened else None


def _needs_state(before: _Before, rows: np.ndarray) -> bool:
    """Whether a state is stored after an update: see `update.state_snapshots`."""
    config, first = before.config.update, int(rows[:, 3].min(initial=before.last + 1))
    states = read_states(before.config.run_path, before.graph, before.checkpoint, before.updates)
    after = max((state.after for state in states if state.after < first), default=-1)
    graph, new = before.facts, np.unique(rows[:, 3])
    later = graph.snapshots > after
    num_snapshots = len(np.union1d(graph.snapshots[later].numpy(), new))
    num_facts = int(graph.num_facts[later].sum()) + len(rows)
    return num_snapshots >= config.state_snapshots or num_facts * 100 >= int(graph.num_facts.sum()) + len(rows)


def update_worker(run: TrainedRun, settings: dict[str, Any], on_event: OnEvent) -> None:
    """Advance a rank; rank 0 writes the scores.

    Args:
        run: The run with the new facts, as the rank has it.
        settings: `first`, `first_ranked` and `num_ranked`, see `advance_run`; `scores`, the file to write; `state`,
            the folder for the state after the last fact, or None.
        on_event: Receives progress: snapshots done, of how many.
    """
    total = sum(time >= settings["first_ranked"] for time in run.graph.times)
    tick = counted(lambda done: on_event((done, total)))
    found = advance_run(run, settings["first"], settings["first_ranked"], settings["num_ranked"], tick)
    if settings["state"]:
        write_state_part(Path(settings["state"]), found.memory, found.baselines)
    if run.graph.partition.rank == 0:
        Path(settings["scores"]).write_text(json.dumps(found.scores), encoding="utf-8")


def _fine_tune(before: _Before, number: int) -> None:
    """Train on the newest snapshots; an update without facts has the new weights, unless they are clearly worse."""
    config, run = before.config, before.config.run_path
    with TemporaryDirectory(prefix=".weights-", dir=run) as folder:
        settings = {"number": number, "rate": config.update.fine_tune_rate}
        on_ranks(config, fine_tune_worker, {**settings, "folder": folder}, "fine-tune")
        found = json.loads(Path(folder, SCORES).read_text(encoding="utf-8"))
        Path(folder, SCORES).unlink()
        logger.info(found["text"])
        if found["is_worse"]:
            logger.warning("the run keeps its weights, since those of fine-tuning are clearly worse")
            return

        def move(update: Path) -> Content:
            for file in Path(folder).iterdir():
                file.rename(update / file.name)
            return {"fine_tuning": found["text"]}

        write_update(
            run,
            graph=before.graph,
            checkpoint=before.checkpoint,
            previous=before.updates[-1] if before.updates else None,
            vocabularies=before.vocabularies,
            facts=np.empty((0, 4), np.int64),
            open_facts=before.open_facts,
            config={"fine_tune": settings},
            write_more=move,
        )


def fine_tune_worker(run: TrainedRun, settings: dict[str, Any], on_event: OnEvent) -> None:
    """Fine-tune a rank; all write their weights, and rank 0 what they are worth.

    Args:
        run: The run, as the rank has it.
        settings: `number` of snapshots; learning `rate`, or None; `folder`, where to write.
        on_event: Receives progress: snapshots done, of how many.
    """
    folder, number = Path(settings["folder"]), settings["number"]
    made = run.checkpoint_manifest.config
    config = Config.model_validate({"seed": made["seed"], "model": made["model"], "train": made["train"]})
    state = newest_optimizer_state(run.path / "checkpoint", run.graph_manifest, run.updates, run.model)
    found = fine_tune(
        config,
        run.graph,
        run.model,
        state,
        number,
        communicator=run.sharded.communicator,
        history=run.history,
        memory_before=lambda snapshot: run.memory_before(snapshot).copy(),
        learning_rate=settings["rate"],
        tick=counted(lambda done: on_event((done, number + max(1, number // 4)))),
    )
    found.write(folder)
    if run.graph.partition.rank == 0:
        write_table(found.table, folder / "fine_tuning.parquet")
        worth = {"text": found.text, "is_worse": found.gain.high < 0}
        (folder / SCORES).write_text(json.dumps(worth), encoding="utf-8")


def _record(config: Config, updates: tuple[Update, ...], axis: TimeAxis) -> None:
    """Set the gauges of Prometheus, on a Ray cluster."""
    scores = [row for one in updates for row in one.content.get("scores", ())]
    if not scores or "RAY_ADDRESS" not in os.environ:
        return
    from .metrics import in_cluster, record

    figures = {"mrr_of_the_day": scores[-1]["mrr"]}
    if (end := axis.end_seconds(scores[-1]["snapshot"])) is not None:
        figures["update_lag_seconds"] = max(0.0, time.time() - end)
    with in_cluster():
        record(config.run_path.name, **figures)


def _show(config: Config, updates: tuple[Update, ...], num_before: int) -> None:
    """Write `evaluation/over_time.parquet` and print its newest rows."""
    table = write_over_time(config.run_path, updates)
    if len(updates) == num_before or not len(table):
        return
    baselines = [name for name in table.column_names if name.endswith("_mrr")]
    rows = [
        [row["timestamp"], f"{row['num_facts']:,}", *(f"{100 * row[name]:.2f}" for name in ("mrr", *baselines))]
        for row in table.slice(max(0, len(table) - _SHOWN)).to_pylist()
    ]
    names = [name.removesuffix("_mrr").replace("_", " ") for name in baselines]
    show_table("MRR of new facts, ranked before they were added, %", ["snapshot", "facts", "model", *names], rows)
