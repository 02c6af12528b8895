"""Search for settings by validation MRR: Ray Tune runs trials, and ASHA stops those that others leave behind.

Each trial has its epochs and its last checkpoint in a folder of its own. A search that was interrupted goes on from
these: every trial first reports the epochs that it has, from which ASHA comes to the same state. Ray's own files are
pickles; they are not read, and removed at the end.

Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020 (ASHA).
"""

import json
import logging
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow as pa
import yaml
from ray import tune
from ray.tune import TuneError
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from gam_kg.artifacts import Content, Manifest, read_manifest, write_artifact
from gam_kg.config import Config
from gam_kg.errors import GamKGError
from gam_kg.ops.precision import require_precision
from gam_kg.output import remove
from gam_kg.parquet import write_table
from gam_kg.progress import duration
from gam_kg.run_config import checkpoint_settings
from gam_kg.schemas import TRIALS
from gam_kg.training.run import batch_processes, threads
from gam_kg.workflow.stage import owned
from .ray_session import ray_session
from .report import show_table
from .run import graph_for_trainings
from .search_space import SearchSpace, Settings
from .trial import FAILED, FINISHED, STOPPED, UNFINISHED, Record, train_trial
from .workers import check_room

logger = logging.getLogger("gam_kg")

BEST = "best.yaml"

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # nothing is printed; the other output ignores that it is to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no logs of its own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command, as everywhere
}
_SHOWN_TRIALS = 10


def search(
    config: Config,
    space: SearchSpace,
    num_trials: int,
    *,
    concurrent: int,
    hours: float | None = None,
    take_over: bool = False,
) -> Path:
    """Train trials with settings drawn from a search space, and write the best configuration.

    Test facts are never ranked.

    Args:
        config: The configuration, for all settings that are not searched.
        space: The search space.
        num_trials: Trials, those of an earlier call with the same configuration and space included.
        concurrent: Trials that train at the same time, each in one process.
        hours: When to stop with what there is; None: when all trials have ended.
        take_over: Work in a run folder whose owner, on another machine, gives no sign of life.

    Returns:
        The folder `tune/` of the run, with `best.yaml` and `trials.parquet`.

    Raises:
        ConfigError: The settings of a trial are not allowed together, or Ray has too few CPUs or GPUs.
        ArtifactError: The record of an earlier trial is damaged.
        GamKGError: No trial has ended an epoch.
    """
    drawn = space.draw(config, num_trials)
    for settings in drawn:
        train = config.changed(settings).train
        require_precision(train.precision, use_gpu=train.use_gpu)
    with owned(config, "tune", take_over=take_over):
        graph = graph_for_trainings(config)
        made_from = {**checkpoint_settings(config), "space": space.axes}
        manifest = Manifest.of("tune", {"graph": read_manifest(graph, "graph").id}, made_from)
        state = config.run_path / "tuning" / manifest.key
        folders = [state / f"trial-{number:04d}" for number in range(num_trials)]
        for folder in folders:
            Record.read(folder)  # a damaged one is refused before any work
        with ray_session():
            base = _one_process(config, concurrent)
            _run_trials([(settings, base.changed(settings)) for settings in drawn], graph, folders, concurrent, hours)
        records = [Record.read(folder) for folder in folders]
        path = config.run_path / "tune"
        write_artifact(path, manifest, lambda folder: _write(folder, config, drawn, records))
    _show(config, drawn, records)
    return path


def _one_process(config: Config, concurrent: int) -> Config:
    """The configuration with which a trial trains: in one process, with its share of the CPUs."""
    if config.train.most_workers > 1:
        logger.info("tune: each trial trains on one worker")
    share = threads(config.changed({"train.num_workers": concurrent}))
    makers = batch_processes(config, concurrent)
    return config.changed({"train.num_workers": 1, "train.threads": share, "train.batch_workers": makers})


def _run_trials(
    drawn: Sequence[tuple[Settings, Config]],
    graph: Path,
    folders: Sequence[Path],
    concurrent: int,
    hours: float | None,
) -> None:
    train = drawn[0][1].train
    resources = {"CPU": train.threads} | ({"GPU": 1} if train.use_gpu else {})
    check_room(drawn[0][1], resources)
    trials = [
        {
            **{"number": number, "settings": ", ".join(f"{key}={value}" for key, value in settings.items())},
            **{"config": config.model_dump(mode="json"), "graph": str(graph), "folder": str(folder)},
        }
        for number, ((settings, config), folder) in enumerate(zip(drawn, folders, strict=True))
    ]
    logger.info(
        "tune: %d trials of at most %d epochs, %d at the same time",
        len(trials),
        train.epochs,
        min(concurrent, len(trials)),
    )
    ray_files = folders[0].parent / "ray"
    remove(ray_files)
    with ExitStack() as stack:
        stack.callback(remove, ray_files)
        stack.enter_context(_settings())
        tuner = tune.Tuner(
            tune.with_resources(_worker, {name.lower(): number for name, number in resources.items()}),
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(
                metric="valid_mrr",
                mode="max",
                scheduler=_Asha(train.epochs, folders, concurrent),
                max_concurrent_trials=concurrent,
                time_budget_s=None if hours is None else 3600 * hours,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(ray_files),
                failure_config=tune.FailureConfig(max_failures=train.max_failures),
                verbose=0,
            ),
        )
        try:
            for error in tuner.fit().errors:
                raise error
        except TuneError as error:  # its text is the traceback of another
            raise (error.__context__ or error) from None


def _worker(settings: dict[str, Any]) -> None:
    trial = settings["trial"]
    config, graph, folder = Config.model_validate(trial["config"]), Path(trial["graph"]), Path(trial["folder"])
    # Ray Tune needs a result of every trial, and training may fail in the first epoch.
    tune.report({"epoch": 0, "valid_mrr": 0.0, "is_new": False})
    train_trial(config, graph, folder, tune.report)


class _Asha(ASHAScheduler):
    """Shows where trials begin and each epoch, and records which trials it stops; `folders` are those of all trials."""

    def __init__(self, epochs: int, folders: Sequence[Path], concurrent: int) -> None:
        super().__init__(time_attr="epoch", max_t=epochs, reduction_factor=3)
        self._epochs, self._folders, self._concurrent = epochs, folders, concurrent

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision, about = super().on_trial_result(tune_controller, trial, result), trial.config["trial"]
        number, epoch, folder = about["number"], result["epoch"], Path(about["folder"])
        record = Record.read(folder)
        if epoch == 0 and record.status == UNFINISHED:
            goes_on = f" after epoch {len(record.epochs)}" if record.epochs else ""
            logger.info("tune: trial %d begins%s: %s", number, goes_on, about["settings"])
        stops = decision == TrialScheduler.STOP and record.status == UNFINISHED
        if stops:
            record.end(folder, FINISHED if epoch == self._epochs else STOPPED)
        if result["is_new"]:
            shown = number, epoch, 100 * result["valid_mrr"], duration(result["seconds"]), self._time_left()
            logger.info("tune: trial %d, epoch %d: validation MRR %.2f, %s%s", *shown)
        if stops and record.status == STOPPED:
            logger.info("tune: trial %d is stopped, others are better after epoch %d", number, epoch)
        return decision

    def _time_left(self) -> str:
        """About how long all trials take if none is stopped early, by the mean epoch so far."""
        records = [Record.read(folder) for folder in self._folders]
        took = [epoch["seconds"] for record in records for epoch in record.epochs]
        left = [self._epochs - len(record.epochs) for record in records if record.status == UNFINISHED]
        rounds = max(max(left, default=0), sum(left) / self._concurrent)
        return f", about {duration(mean(took) * rounds)} left, or less" if rounds else ""


@contextmanager
def _settings() -> Generator[None]:
    """Settings of Ray Tune for the block; those of the caller are put back."""
    before, log = {name: os.environ.get(name) for name in _ENVIRONMENT}, logging.getLogger("ray.tune")
    level = log.level
    os.environ.update(_ENVIRONMENT)
    log.setLevel(logging.CRITICAL)  # errors are raised
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _best(records: Sequence[Record]) -> tuple[int, dict[str, Any]]:
    """Number of the trial with the best validation MRR, and that epoch of it.

    Raises:
        GamKGError: No trial has one.
    """
    found = {
        number: best for number, record in enumerate(records) if record.status != FAILED and (best := record.best())
    }
    if not found:
        error = next((f": {record.error}" for record in records if record.error), "; give it more --hours")
        raise GamKGError(f"tune: of {len(records)} trials none has trained an epoch{error}")
    return max(found.items(), key=lambda one: one[1]["valid_mrr"])


def _write(folder: Path, config: Config, drawn: Sequence[Settings], records: Sequence[Record]) -> Content:
    number, epoch = _best(records)
    best = config.changed({**drawn[number], "name": f"{config.name}-best", "run_dir": None})
    about = [
        f"# Best of {len(records)} trials by validation MRR: {100 * epoch['valid_mrr']:.2f} % after epoch "
        f"{epoch['epoch']} of trial {number}.",
        f"# What differs from the defaults. Searched: {', '.join(drawn[0])}.",
    ]
    different = _different(best.model_dump(mode="json"), Config().model_dump(mode="json"))
    text = "\n".join([*about, yaml.safe_dump(different, sort_keys=False)])
    (folder / BEST).write_text(text, encoding="utf-8")
    write_table(_table(drawn, records), folder / "trials.parquet")
    return {
        "num_trials": len(records),
        "best_trial": number,
        "best_epoch": epoch["epoch"],
        "valid_mrr": epoch["valid_mrr"],
    }


def _different(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _different(value, defaults[name]) if isinstance(value, dict) else value
        for name, value in values.items()
        if value != defaults[name]
    }


def _table(drawn: Sequence[Settings], records: Sequence[Record]) -> pa.Table:
    """One row a trial, see `schemas.TRIALS`."""
    rows = []
    for number, record in enumerate(records):
        best = {f"best_{name}": value for name, value in (record.best() or {}).items()}
        seconds = float(sum(epoch["seconds"] for epoch in record.epochs))
        came_of_it = {"status": record.status, "epochs": len(record.epochs), "error": record.error}
        rows.append({"trial": number, **came_of_it, **best, "seconds": seconds})
    table = pa.Table.from_pylist(rows, TRIALS)
    for key in drawn[0]:
        table = table.append_column(key, _column([settings[key] for settings in drawn]))
    return table


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException:  # of several types
        return pa.array([json.dumps(value) for value in values])


def _show(config: Config, drawn: Sequence[Settings], records: Sequence[Record]) -> None:
    """Print the best trials."""
    best = [(record.best() or {"valid_mrr": 0.0})["valid_mrr"] for record in records]
    order = sorted(range(len(records)), key=lambda number: -best[number])[:_SHOWN_TRIALS]
    rows = []
    for number in order:
        settings, record = drawn[number].values(), records[number]
        came_of_it = [str(len(record.epochs)), f"{100 * best[number]:.2f}", record.status]
        rows.append([str(number), *map(str, settings), *came_of_it])
    show_table(f"{config.name}: best trials", ["trial", *drawn[0], "epochs", "valid MRR, %", "status"], rows)
    for number, record in enumerate(records):
        if record.error is not None:
            logger.warning("tune: trial %d failed: %s", number, record.error)
    if unfinished := sum(record.status == UNFINISHED for record in records):
        logger.info(
            "tune: %d of %d trials are unfinished; the same command goes on with them", unfinished, len(records)
        )
