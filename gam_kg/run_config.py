"""The settings that each artifact of a run depends on, and config.yaml, the record of those that it was made with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from gam_kg.artifacts import MANIFEST, Manifest, command, read_manifest
from gam_kg.config import Config, load_config
from gam_kg.config_file import CONFIG_NAMES
from gam_kg.data_config import CsvConfig
from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.mirror import readable_run
from gam_kg.output import replacing
from gam_kg.run_folder import waiting
from gam_kg.storage import is_remote, local_folder
from gam_kg.versions import artifact_folder

CONFIG = "config.yaml"
# What changes how training is done but not what comes out.
_OPERATIONAL = {
    "num_workers",
    "use_gpu",
    "threads",
    "batch_workers",
    "read_ahead",
    "cuda_graphs",
    "max_failures",
    "checkpoint_steps",
    "max_logits",
    "loggers",
}


def _graph_settings(config: Config) -> dict[str, Any]:
    """The settings that `graph/` depends on, beside the content of the facts and of the features of entities."""
    # Facts that are not imported from text do not depend on how text tables are read.
    is_text = (config.data.import_from or "lahman").partition(":")[0] != "lahman"
    data = config.data.model_copy(update={} if is_text else {"csv": CsvConfig()})
    return {
        "data": data.model_dump(mode="json", exclude={"facts", "import_from", "entity_features"}),
        "prepare": config.prepare.model_dump(mode="json", exclude={"memory_gib"}),
    }


def checkpoint_settings(config: Config) -> dict[str, Any]:
    """The settings that `checkpoint/` depends on."""
    return {
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json", exclude=_OPERATIONAL),
    }


def _prediction_settings(config: Config) -> dict[str, Any]:
    settings = {
        "predict": config.predict.model_dump(mode="json", include={"top_k", "strict", "explain", "queries_per_file"})
    }
    read = {"data": {"csv": config.data.csv.model_dump(mode="json")}} if config.predict.queries else {}
    return settings | read


SETTINGS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "graph": _graph_settings,
    "checkpoint": checkpoint_settings,
    "embeddings": lambda config: {"embed": config.embed.model_dump(mode="json")},
    "evaluation": lambda config: {"evaluate": config.evaluate.model_dump(mode="json")},
    "predictions": _prediction_settings,
    "report": lambda config: {"name": config.name, "picture": find_spec("matplotlib") is not None},
}
"""Kind of artifact → its settings, as plain values by the sections of the configuration."""


def differences(config: Config, made: Manifest) -> list[tuple[str, Any, Any]]:
    """Settings that differ from those that an artifact was made with: (dotted key, value here, value there)."""
    settings = SETTINGS[made.kind]
    here = dict(flat(settings(config)))
    # A setting that is newer than the artifact had its default.
    there = dict(flat(settings(Config()))) | dict(flat(made.config))
    return [(key, value, there.get(key)) for key, value in here.items() if key not in there or value != there[key]]


def require_same_settings(verb: str, config: Config, read: dict[Path, Manifest]) -> None:
    """Refuse settings other than those that the artifacts which a stage reads were made with.

    Args:
        verb: The stage, for the message.
        config: The run's configuration.
        read: Folder → manifest of each artifact.

    Raises:
        ConfigError: Some differ; the message has each with both values and the stage to redo.
    """
    lines = []
    for path, made in read.items():
        found = differences(config, made)
        redo = command("checkpoint" if made.kind == "graph" and found and _waits(config) else made.kind)
        lines += [
            f"  {key}={_shown(here)}, but {path.name}/ was made with {_shown(there)}; run: {redo}"
            for key, here, there in found
        ]
    if lines:
        recorded = config.run_path / CONFIG
        lines = [f"{verb}: settings differ from those that {config.run_path} was made with:", *lines]
        raise ConfigError("\n".join([*lines, f"Or use the settings that it was made with, which are in {recorded}"]))


def config_of_run(run: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a run that is named by its folder, its URI or its YAML file, or one that comes with gam-kg.

    Args:
        run: The folder, URI, file or name.
        overrides: See `load_config`.

    Raises:
        ArtifactError: It is a folder with no run in it.
        ConfigError: There is nothing there; see also `load_config`.
        StorageError: See `readable_run`.
    """
    if not _is_folder(run, "RUN"):
        return load_config(run, tuple(overrides))
    path = readable_run(run, "RUN", CONFIG)
    if not (path / CONFIG).exists():
        raise ArtifactError(f"{path}: no run folder (no {CONFIG}); expected one that gam-kg run made, or its YAML file")
    return load_config(path / CONFIG, (*overrides, f"run_dir={run if is_remote(run) else path}"))


def folder_of_run(run: str, key: str, *only: str) -> Path:
    """The folder to read of a run that is named as for `config_of_run`; arguments and errors: see `readable_run`."""
    if _is_folder(run, key):
        return readable_run(run, key, *only)
    config = load_config(run)
    return readable_run(config.run_dir or str(config.run_path), key, *only)


def _is_folder(run: str, key: str) -> bool:
    """Whether a run is named by its folder or URI, and not by a YAML file or by what comes with gam-kg."""
    if run.endswith((".yaml", ".yml")):
        return False
    folder = local_folder(run, key)
    return is_remote(run) or (folder.is_dir() and (run not in CONFIG_NAMES or (folder / CONFIG).exists()))


def write_config(config: Config) -> None:
    """Write config.yaml: the configuration, with the settings of each artifact beside it as that was made."""
    _write(config.run_path, config)


def mend_config(run: Path) -> None:
    """Write config.yaml where a process was killed between an artifact and the record of its settings."""
    recorded = run / CONFIG
    manifests = [path for kind in SETTINGS if (path := artifact_folder(run, kind) / MANIFEST).exists()]
    with suppress(FileNotFoundError, ConfigError):
        if recorded.stat().st_mtime < max((path.stat().st_mtime for path in manifests), default=0):
            _write(run, load_config(recorded))


def _write(run: Path, config: Config) -> None:
    values = config.model_dump(mode="json")
    for kind in SETTINGS:
        with suppress(ArtifactError):
            made = read_manifest(artifact_folder(run, kind), kind)
            given = {key: source["given"] for key, source in made.sources.items()}
            for key, value in (dict(flat(made.config)) | given).items():
                _set(values, key, value)
    with replacing(run / CONFIG) as staging:
        staging.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _waits(config: Config) -> bool:
    """Whether a graph with the configured settings waits for its checkpoint."""
    with suppress(ArtifactError):
        return not differences(config, read_manifest(waiting(config.run_path, "graph"), "graph"))
    return False


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested sections."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, if there is such a one."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.get(parent, {})
    if last in values:
        values[last] = value


def _shown(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
