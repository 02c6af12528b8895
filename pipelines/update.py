"""The update verb: new facts into a finished run, embeddings and predictions out, without training."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.delivery import deliver, require_place
from gam_kg.errors import ConfigError, DataError
from gam_kg.graph.folded_updates import fold_updates
from gam_kg.graph.update_chain import Update, last_snapshot, read_updates, write_update
from gam_kg.inference.state import (
    can_advance,
    publish_state,
    read_states,
    start_before,
    state_parts,
    write_state_part,
)
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.inference.update import advance_run, write_over_time
from gam_kg.ingest.new_facts import LATE, NewFacts, read_new_facts
from gam_kg.ingest.quarantine import Quarantine
from gam_kg.ingest.sources import Sources
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.training.fine_tune import require_snapshots
from gam_kg.versions import VERSIONED
from gam_kg.workflow.inputs import record
from gam_kg.workflow.situation import PREDICTIONS
from gam_kg.workflow.stage import owned
from .embed import embed
from .fine_tune import fine_tune_run, fine_tune_settings
from .predict import predict
from .progress import counted
from .ranks import OnEvent, on_ranks, open_run
from .report import show_table
from .run_before import RunBefore

SCORES = "scores.json"
_SHOWN = 10

logger = logging.getLogger("gam_kg")


def update(
    config: Config,
    facts: str | None = None,
    *,
    late: str | None = None,
    fine_tune_on: int = 0,
    to: str | None = None,
    take_over: bool = False,
) -> Path:
    """Add facts to a run: what is new is ranked first, then added; embeddings and predictions follow.

    Facts that the run has already are left out. An update is there as a whole or not at all; what a process that was
    killed has not published, the next one does.

    Args:
        config: The run's configuration.
        facts: Parquet or CSV file, folder, glob or URI; None: `data.facts`.
        late: "refuse", "replay" or "quarantine" facts before the last snapshot; None: as `update.late` says.
        fine_tune_on: How many of the newest snapshots with facts the model then trains on; 0: it does not.
        to: Folder or URI that gets copies of the versions; None: none.
        take_over: Work in a run folder whose owner, on another machine, gives no sign of life.

    Returns:
        The version of the embeddings.

    Raises:
        ArtifactError: The run is not finished, or damaged.
        ConfigError: Settings differ from those of the run, or it has no `fine_tune_on` snapshots; nothing is added.
        DataError: The facts cannot be read, too many rows are bad, or some are late and refused.
        OutputError, StorageError: `to` cannot be written.
    """
    with owned(config, "update", take_over=take_over):
        PREDICTIONS.files(config)  # what is read last is refused before any work
        if to is not None:
            require_place(to)
        place = config.data.facts if facts is None else facts
        if place is None:
            raise ConfigError("--facts is not given, and the run has no data.facts; give a file, folder, glob or URI")
        before = RunBefore.of(config)
        # Before they are read, which they then cannot be older than.
        given = record(config, ("data.facts",), (Sources.find(place),)) if facts is None else {}
        new = _read(before, place, late or config.update.late)
        rows = new.rows[~before.has(new.rows)]
        _log_read(before, new, len(rows))
        if fine_tune_on:
            require_snapshots(fine_tune_on, len(np.union1d(before.facts.snapshots.numpy(), rows[:, 3])))
        (config.run_path / Quarantine.NAME).unlink(missing_ok=True)
        is_new = len(rows) > 0 or not np.array_equal(new.open_facts, before.open_facts)
        opened = _add(before, new, rows, given) if is_new else None
        _show(config, read_updates(config.run_path, before.graph), len(before.updates))
        if fine_tune_on and (is_new or not _is_fine_tuned(before, fine_tune_on)):
            opened = None
            fine_tune_run(RunBefore.of(config), fine_tune_on)
        fold_updates(config.run_path, read_updates(config.run_path, before.graph))
        if opened is None and config.train.most_workers <= 1:
            opened = open_run(config)
        version = embed(before.settings, opened=opened)
        predict(before.settings, opened=opened)
        for kind in VERSIONED if to is not None else ():
            logger.info("%s: copied to %s", kind, deliver(config.run_path / kind, str(to), config.publish))
        _record(config, read_updates(config.run_path, before.graph), before.axis)
        return version


def _is_fine_tuned(before: RunBefore, number: int) -> bool:
    """Whether the last update was the same fine-tuning, as where the command is given again."""
    last = before.updates[-1].manifest if before.updates else None
    made = last is not None and last.config == {"fine_tune": fine_tune_settings(before.config, number)}
    if made:
        logger.info("the run is fine-tuned on its newest %d snapshots already", number)
    return made


def _read(before: RunBefore, place: str, late: str) -> NewFacts:
    """The facts of the files, where late ones may be refused."""

    def is_usable(facts: np.ndarray) -> np.ndarray:
        return (facts[:, 3] >= before.last) | before.has(facts)

    new = read_new_facts(
        place,
        before.config,
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


def _log_read(before: RunBefore, new: NewFacts, num_added: int) -> None:
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


def _add(before: RunBefore, new: NewFacts, rows: np.ndarray, sources: dict[str, Content]) -> TrainedRun | None:
    """Write the update, and the state where it is time for one; returns the run as this process has it open."""
    config, run, opened = before.config, before.config.run_path, list[TrainedRun]()

    with state_parts(run) as parts:
        settings = {
            "first": int(rows[:, 3].min(initial=before.last + 1)),
            "first_ranked": before.last + 1,
            "num_ranked": config.update.score_facts,
            "baselines": config.evaluate.baselines,
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
            sources=sources,
            write_more=advance,
        )
        if new.quarantined:
            logger.info("update: rows that are not used are in %s", added.path / Quarantine.NAME)
        updates = *before.updates, added
        publish_state(
            run,
            last_snapshot(before.graph, updates),
            (before.graph, before.checkpoint, updates),
            parts,
            config.update,
            baselines=config.evaluate.baselines,
        )
    return opened[0].with_updates(updates) if opened else None


def _needs_state(before: RunBefore, rows: np.ndarray) -> bool:
    """Whether a state is stored after an update: see `update.state_snapshots`."""
    config, first = before.config.update, int(rows[:, 3].min(initial=before.last + 1))
    found = read_states(before.config.run_path, before.graph, before.checkpoint, before.updates)
    states = can_advance(found, baselines=before.config.evaluate.baselines)
    if found and not states:
        logger.warning(
            "warning: the stored states are without the untrained baselines (evaluate.baselines was false), which "
            "therefore count anew from the first fact"
        )
    after = start_before(states, first)
    graph, new = before.facts, np.unique(rows[:, 3])
    later = graph.snapshots > after
    num_snapshots = len(np.union1d(graph.snapshots[later].numpy(), new))
    num_facts = int(graph.num_facts[later].sum()) + len(rows)
    return num_snapshots >= config.state_snapshots or num_facts * 100 >= int(graph.num_facts.sum()) + len(rows)


def update_worker(run: TrainedRun, settings: dict[str, Any], on_event: OnEvent) -> None:
    """Advance a rank; rank 0 writes the scores.

    Args:
        run: The run with the new facts, as the rank has it.
        settings: `first`, `first_ranked`, `num_ranked` and `baselines`, see `advance_run`; `scores`, the file to
            write; `state`, the folder for the state after the last fact, or None.
        on_event: Receives progress: snapshots done, of how many.
    """
    first, baselines = settings["first"], settings["baselines"]
    after = start_before(can_advance(run.states, baselines=baselines), first)
    total = sum(time > after for time in run.graph.times)
    tick = counted(lambda done: on_event((done, total)))
    ranked = settings["first_ranked"], settings["num_ranked"]
    found = advance_run(run, first, *ranked, tick, with_baselines=baselines)
    if settings["state"]:
        run.forget_vectors()  # writing a state takes most memory
        write_state_part(Path(settings["state"]), found.memory, run.history, found.baselines)
    if run.graph.partition.rank == 0:
        Path(settings["scores"]).write_text(json.dumps(found.scores), encoding="utf-8")


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
    """Write `evaluation/over_time.parquet`, and print its newest rows where this update has some."""
    table = write_over_time(config.run_path, updates)
    if not any(one.content.get("scores") for one in updates[num_before:]):
        return
    newest = table.slice(max(0, len(table) - _SHOWN))
    baselines = [name for name in table.column_names if name.endswith("_mrr") and newest[name].null_count < len(newest)]
    rows = [
        [row["timestamp"], f"{row['num_facts']:,}", *(_percent(row[name]) for name in ("mrr", *baselines))]
        for row in newest.to_pylist()
    ]
    names = [name.removesuffix("_mrr").replace("_", " ") for name in baselines]
    show_table("MRR of new facts, ranked before they were added, %", ["snapshot", "facts", "model", *names], rows)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"
