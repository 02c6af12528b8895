"""Where metrics of a training also go: event files for TensorBoard, and an MLflow tracking server."""

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from gam_kg.config import Config
from gam_kg.errors import ConfigError, GamKGError
from gam_kg.run_config import flat
from gam_kg.text import error_line

logger = logging.getLogger("gam_kg")

RUN_FILE = "mlflow_run"
"""The file in `log/` with the id of the MLflow run, which an interrupted training and the evaluation go on with."""

_URI, _EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"


class Logger(Protocol):
    """Receives the metrics of each epoch."""

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Log metrics, nested by name."""
        ...


class TensorBoardLogger:
    """Event files in the folder, one for each epoch.

    Args:
        folder: `log/` of the run.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._folder = folder

    def log(self, metrics: dict[str, Any], step: int) -> None:
        with self._writer(str(self._folder)) as writer:
            for name, value in _numbers(metrics):
                writer.add_scalar(name, value, global_step=step)


class MLflowLogger:
    """A run on the tracking server that MLFLOW_TRACKING_URI names, with all settings as its parameters.

    It is in the experiment MLFLOW_EXPERIMENT_NAME, by default gam-kg. Once it has begun, errors are warnings: a server
    that is away ends no training.

    Args:
        config: The run's configuration.
        anew: Begin a run; else go on with the one that was begun, if there is one.

    Raises:
        ConfigError: mlflow is not installed, MLFLOW_TRACKING_URI is not set, or the server refuses.
    """

    def __init__(self, config: Config, *, anew: bool) -> None:
        uri, file = os.environ.get(_URI), config.run_path / "log" / RUN_FILE
        if not uri:
            raise ConfigError(f"train.loggers has mlflow, but {_URI} is not set; set it to the address of the server")
        try:
            mlflow = importlib.import_module("mlflow")
        except ImportError:
            raise ConfigError(
                "train.loggers has mlflow, which is not installed: pip install 'gam-kg[mlflow]'"
            ) from None
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            if anew or not file.exists():
                file.write_text(self._begin(config), encoding="utf-8")
        except GamKGError:
            raise
        except Exception as error:  # whatever its client raises
            raise ConfigError(f"{_URI}: MLflow cannot be used: {error_line(error)}") from error
        self._run = file.read_text(encoding="utf-8")

    def _begin(self, config: Config) -> str:
        name = os.environ.get(_EXPERIMENT) or "gam-kg"
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=config.name).info.run_id
        for key, value in flat(config.model_dump(mode="json")):
            self._client.log_param(run, key, value)
        return run

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self._try(lambda: [self._client.log_metric(self._run, key, one, step=step) for key, one in _numbers(metrics)])

    def end(self, status: str) -> None:
        """Set the status of the run: FINISHED, FAILED or KILLED."""
        self._try(lambda: self._client.set_terminated(self._run, status))

    def _try(self, call: Any) -> None:
        try:
            call()
        except Exception as error:
            logger.warning("warning: MLflow: %s", error_line(error))


def open_loggers(config: Config, *, anew: bool) -> list[Logger]:
    """The loggers of `train.loggers`; TensorBoard only where it is installed. Errors: see `MLflowLogger`."""
    found: list[Logger] = []
    if "tensorboard" in config.train.loggers:
        with suppress(ImportError):
            found.append(TensorBoardLogger(config.run_path / "log"))
    if "mlflow" in config.train.loggers:
        found.append(MLflowLogger(config, anew=anew))
    return found


def log_evaluation(config: Config, metrics: dict[str, Any]) -> None:
    """Send the metrics of an evaluation to the MLflow run of the training, if it had one; errors are warnings."""
    if "mlflow" in config.train.loggers and (config.run_path / "log" / RUN_FILE).exists():
        splits = {split: metrics[split] for split in ("valid", "test") if split in metrics}
        found = {
            split: {setting: tree["time_aware"]["both"] for setting, tree in settings.items()}
            for split, settings in splits.items()
        }
        try:
            MLflowLogger(config, anew=False).log(found, step=0)
        except ConfigError as error:
            logger.warning("warning: the metrics of the evaluation are not in MLflow: %s", error)


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of nested metrics, by their names with a slash between."""
    for key, value in flat(values):
        if isinstance(value, (int, float)):
            yield key.replace(".", "/").replace("@", "_at_"), value
