"""The log of a training: every step and epoch in files and other loggers, and progress on the terminal."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self

from gam_kg.config import Config
from gam_kg.errors import ArtifactError, writing
from gam_kg.progress import Advance
from gam_kg.training.loggers import MLflowLogger, open_loggers
from gam_kg.training.position import Progress
from gam_kg.training.run import describe

OpenProgress = Callable[[str, int], AbstractContextManager[Advance]]


class TrainingLog:
    """Receives the trainer's events and writes `log/`: JSON lines of steps and epochs, epochs to `train.loggers` too.

    Args:
        config: The run's configuration.
        anew: Remove the log of an earlier training.
        open_progress: Shows the progress of an epoch, given a description and the number of its snapshots.
        print_line: Shows a line.

    Raises:
        ArtifactError: There is a file in place of the folder.
        ConfigError: MLflow is a logger, and cannot be used.
    """

    def __init__(
        self, config: Config, *, anew: bool, open_progress: OpenProgress, print_line: Callable[[str], None]
    ) -> None:
        self._folder, self._epochs = config.run_path / "log", config.train.epochs
        self._open_progress, self._print_line = open_progress, print_line
        self._epoch, self._advance, self._total = ExitStack(), None, 0
        if self._folder.exists() and not self._folder.is_dir():
            raise ArtifactError(
                f"{self._folder} is a file, where training needs a folder for its log; move it away or change run_dir"
            )
        if anew:
            shutil.rmtree(self._folder, ignore_errors=True)
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._loggers = open_loggers(config, anew=anew)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._epoch.close()
        for logger in self._loggers:
            if isinstance(logger, MLflowLogger):
                logger.end("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")

    def __call__(self, event: Progress) -> None:
        """Log an event and show it.

        Raises:
            OutputError: The log cannot be written.
        """
        with writing(self._folder):
            self._log(event)

    def _log(self, event: Progress) -> None:
        if event.snapshot is not None:
            self._append("steps.jsonl", {"epoch": event.epoch, **event.snapshot})
        if event.metrics is None:
            self._show(event)
            return
        self._epoch.close()
        self._advance = None
        self._print_line(describe(event.metrics))
        self._append("metrics.jsonl", event.metrics)
        for logger in self._loggers:
            logger.log(event.metrics, event.metrics["epoch"])

    def _show(self, event: Progress) -> None:
        if self._advance is None:
            self._total = event.total
            title = f"epoch {event.epoch}/{self._epochs}"
            self._advance = self._epoch.enter_context(self._open_progress(title, event.total))
        training = event.phase == "train"
        self._advance(event.done if training else self._total, f"loss {event.loss:.3f}" if training else "validating")

    def _append(self, name: str, values: dict[str, Any]) -> None:
        with (self._folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
