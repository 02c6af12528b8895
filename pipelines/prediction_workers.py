"""Actors of Ray Data that answer parts of the queries; one that is lost is started again, and so is its part."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from gam_kg.config import Config
from gam_kg.errors import WorkerLostError
from gam_kg.inference.queries import read_queries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.training.run import threads
from .prediction_parts import Part, write_part
from .query_files import WholeFiles
from .ranks import open_run
from .ray_session import ray_session
from .workers import check_room, require_here


class Answerer:
    """An actor: it opens the run once, and its memory and history go on from part to part.

    Args:
        config: The run's configuration, as plain values.
        files: The queries.
        folder: Where the files of parts go.
    """

    def __init__(self, config: dict[str, Any], files: WholeFiles, folder: Path) -> None:
        self.config, self.files, self.folder = Config.model_validate(config), files, folder

    def __call__(self, parts: pa.Table) -> Iterator[pa.Table]:
        """Write the files of parts.

        Yields:
            The parts.

        Raises:
            ConfigError: The run is not on this machine.
            WorkerLostError: Processes were lost again and again while they answered the queries of a part.
        """
        for values in parts.to_pylist():
            self.answer(Part(**values))
        yield parts

    @cached_property
    def run(self) -> TrainedRun:
        """The run."""
        require_here(self.config)
        return open_run(self.config)

    def answer(self, part: Part) -> None:
        """Write the file of a part."""
        self._count_attempt(part)
        rows = read_queries(self.run, self.files.read(part.start, part.stop), self.config.data.columns)
        write_part(self.run, rows, part, self.folder, self.config.predict)

    def _count_attempt(self, part: Part) -> None:
        """Ray starts an actor that was lost again without end."""
        attempts, most = self.folder / f"attempts-{part.number:05d}", 1 + self.config.train.max_failures
        with attempts.open("a", encoding="utf-8") as file:
            file.write("|")
        if attempts.stat().st_size > most:
            attempts.unlink()
            raise WorkerLostError(
                f"{part.name}: {most} processes were lost while they answered its queries, perhaps as memory ran out; "
                "lower predict.num_workers or predict.queries_per_file"
            )


def answer_on_actors(
    config: Config,
    files: WholeFiles,
    parts: Sequence[Part],
    folder: Path,
    on_part: Callable[[Part], None],
    answerer: type[Answerer] = Answerer,
) -> None:
    """Write the files of parts with `predict.num_workers` actors, which take them in this order.

    Args:
        config: The run's configuration.
        files: The queries.
        parts: The parts, at least one.
        folder: Folder that all nodes see, for the files.
        on_part: Called with each part that is written.
        answerer: What each actor is.

    Raises:
        ConfigError: Ray has too few CPUs or GPUs.
        WorkerLostError: Processes were lost again and again while they answered the queries of a part.
    """
    workers = config.predict.num_workers
    here = config.changed({"train.num_workers": workers, "run_dir": str(config.run_path)})
    resources = {"CPU": threads(here)} | ({"GPU": 1} if config.train.use_gpu else {})
    folder.mkdir(parents=True, exist_ok=True)
    for attempts in folder.glob("attempts-*"):
        attempts.unlink()
    with ray_session():
        check_room(here, resources, "predict.num_workers")
        written = ray.data.from_items([asdict(part) for part in parts], override_num_blocks=len(parts)).map_batches(
            answerer,
            fn_constructor_args=(here.model_dump(mode="json"), files, folder),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(workers, len(parts)), max_tasks_in_flight_per_actor=1),
            num_cpus=resources["CPU"],
            num_gpus=resources.get("GPU"),
        )
        for values in written.iter_rows():
            on_part(Part(**values))
