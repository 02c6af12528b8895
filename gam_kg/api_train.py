"""`gam_kg.train`: from a table of facts to a finished run, in this process and without Ray."""

import os
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from gam_kg.api import Run, load
from gam_kg.api_opened import path_text
from gam_kg.artifacts import read_manifest
from gam_kg.config import Config
from gam_kg.errors import ConfigError, DataError
from gam_kg.inference.frames import arrow_table
from gam_kg.ingest.sources import Sources
from gam_kg.output import replacing
from gam_kg.parquet import write_table
from gam_kg.progress import Advance, progress_lines
from gam_kg.run_config import flat
from gam_kg.text import is_uri, printable
from gam_kg.training.training_log import TrainingLog
from gam_kg.workflow.imports import import_if_missing
from gam_kg.workflow.prepare import describe_graph, prepare_here
from gam_kg.workflow.stage import owned
from gam_kg.workflow.train import OpenLog, train_here, train_stage

GIVEN, IMPORTED = "given_facts.parquet", "imported_facts.parquet"
"""The files of a run that have the facts of a DataFrame, and those that were imported."""

_GIVEN_ELSEWHERE = {
    "data.facts": "give the facts as the first argument",
    "data.import_from": "give the facts as the first argument",
    "run_dir": "give run_dir as an argument of its own",
    "train.num_workers": "gam_kg.train works in this process; `gam-kg train` divides the work among workers",
    "prepare.memory_gib": "it limits Ray, which gam_kg.train does not use; `gam-kg prepare` does",
}


def train(
    facts: pd.DataFrame | str | PathLike[str],
    *,
    run_dir: str | PathLike[str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Prepare facts and train on them in this process, and open the finished run.

    The run is one of `gam-kg`, whose verbs go on with it: `gam-kg evaluate RUN/config.yaml`, `gam-kg update RUN ...`.
    Called again with the same facts, settings and folder, what is finished is not made again, and an interrupted
    training continues.

    Args:
        facts: A DataFrame; or a Parquet file, folder, glob or URI; or what `gam-kg import` reads, as a CSV file. It has
            the columns `subject`, `relation`, `object` and `timestamp`, or others that `data.columns` names.
        run_dir: Folder or URI of the run; None: a new temporary folder, which is shown, and is `Run.path`.
        progress: Whether to show progress on standard error.
        **settings: Of `configs/base.yaml`, nested, as `train={"epochs": 2}`, or dotted, as `**{"train.epochs": 2}`.

    Raises:
        ConfigError: A setting is unknown (the message has the closest one) or a value is not allowed; or `run_dir` is
            no name of a folder.
        DataError: The facts cannot be used; the message has examples, and where the quarantined rows are.
        GamKGError: The training fails, or another process works on the run.

    Example:
        >>> facts = pd.DataFrame(
        ...     {"subject": ["ada"], "relation": ["meets"], "object": ["bob"], "timestamp": ["2024-01-01"]}
        ... )
        >>> run = gam_kg.train(facts, run_dir="runs/mine", train={"epochs": 2}, prepare={"max_bad_fraction": 0.01})
    """
    place = "run" if run_dir is None else path_text(run_dir, "run_dir")
    if place.endswith((".yaml", ".yml")):
        raise ConfigError(f"run_dir={place}: a run is a folder, and this is the name of a YAML file; give another name")
    config = _config(facts, place, settings)
    show = _print if progress else lambda _: None
    if run_dir is None:  # not before the settings are known to be good
        place = tempfile.mkdtemp(prefix="gam-kg-")
        config = _config(facts, place, settings)
        show(f"the run is in {place}, a temporary folder; give run_dir to have it elsewhere")
    with owned(config, "train"):
        with _stored(arrow_table(facts, "facts"), config) if isinstance(facts, pd.DataFrame) else nullcontext():
            import_if_missing(config)
            graph = prepare_here(config)
        show(f"graph: {describe_graph(read_manifest(graph, 'graph').content)}")
        train_stage(train_here, _log(show))(config)
    return load(place)


@contextmanager
def _stored(table: pa.Table, config: Config) -> Generator[None]:
    """Facts in the file of the run, for the block to make a graph of; if it fails, the earlier facts are put back."""
    place = config.run_path / GIVEN
    before = place.with_name(f".{GIVEN}.before")
    if place.exists() and not before.exists():  # it is there where a process was killed in this block
        place.rename(before)
    try:
        with replacing(place) as staging:
            write_table(table, staging)
        yield
    except BaseException:
        if before.exists():
            before.replace(place)
        raise
    before.unlink(missing_ok=True)


def _config(facts: pd.DataFrame | str | PathLike[str], place: str, settings: dict[str, Any]) -> Config:
    """The configuration of the run.

    Raises:
        ConfigError: See `train`.
        DataError: There are no such facts.
    """
    values = dict(flat(settings))
    for key, advice in _GIVEN_ELSEWHERE.items():
        if key in values:
            raise ConfigError(f"gam_kg.train: {key}={values[key]!r} is not taken here; {advice}")
    given = {
        "run_dir": place,
        "name": os.path.basename(os.path.abspath(place)) or "run",
        "train.num_workers": 0,
    } | values
    config = Config().changed(given, "gam_kg.train")
    if isinstance(facts, pd.DataFrame):
        return config.changed({"data.facts": str(config.run_path / GIVEN)})
    if not isinstance(facts, (str, PathLike)):
        raise DataError(f"facts: expected a DataFrame or a path, found {type(facts).__name__}")
    source = fspath(facts)
    if _is_text(source):
        return config.changed({"data.facts": str(config.run_path / IMPORTED), "data.import_from": source})
    return config.changed({"data.facts": source})


def _is_text(source: str) -> bool:
    """Whether facts are to be imported first.

    Raises:
        DataError: There are no such facts.
    """
    if source.partition(":")[0] == "lahman" or (
        not is_uri(source) and (Path(source).expanduser() / "train.txt").exists()
    ):
        return True
    return all(file.format == "text" for file in Sources.find(source, "facts", text_tables=True).files)


def _log(show: Callable[[str], None]) -> OpenLog:
    """Opens training logs that show their lines."""

    def lines(description: str, total: int) -> AbstractContextManager[Advance]:
        return nullcontext(progress_lines(description, total, "snapshots", show))

    def open_log(config: Config, *, anew: bool) -> TrainingLog:
        return TrainingLog(config, anew=anew, open_progress=lines, print_line=show)

    return open_log


def _print(line: str) -> None:
    sys.stderr.write(printable(line) + "\n")
