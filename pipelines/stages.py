"""A stage makes one artifact from other artifacts or files. `Stage` runs any of them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gam_kg.artifacts import Content, Manifest, read_manifest, require_same, write_artifact
from gam_kg.config import Config
from gam_kg.errors import ArtifactError
from pipelines.sources import Sources

logger = logging.getLogger("gam_kg")


@dataclass(frozen=True)
class Task:
    """One run of a stage.

    Attributes:
        config: The run's configuration.
        folder: Empty folder for the files of the artifact.
        manifest: The artifact's manifest, still without content.
        read: Kind → manifest of each artifact that the stage reads.
        sources: The input files, if the stage reads some.
        force: Whether the user requires that the stage is redone.
    """

    config: Config
    folder: Path
    manifest: Manifest
    read: dict[str, Manifest]
    sources: Sources | None
    force: bool


@dataclass(frozen=True)
class Stage:
    """How one artifact of a run is made.

    Attributes:
        kind: The artifact, and its folder in the run.
        reads: Kinds of the artifacts that it is made from.
        settings: Configuration → the settings that it depends on, as plain values.
        write: Writes the files and returns the content of the manifest.
        summary: (folder, content) → the artifact in a line.
        files: Configuration → the input files that it is made from, if any.
        finish: Called when the artifact is in place.
    """

    kind: str
    settings: Callable[[Config], dict[str, Any]]
    write: Callable[[Task], Content]
    summary: Callable[[Path, Content], str]
    reads: tuple[str, ...] = ("graph", "checkpoint")
    files: Callable[[Config], Sources | None] = lambda _: None
    finish: Callable[[Config], None] = lambda _: None

    def __call__(self, config: Config, *, force: bool = False) -> Path:
        """Make the artifact, unless it is there already, made from the same inputs with the same settings.

        Args:
            config: The run's configuration.
            force: Make it in any case.

        Returns:
            The folder of the artifact.

        Raises:
            ArtifactError: An artifact that it is made from is missing, or they do not belong together.
            GamKGError: What the stage itself refuses.
        """
        path = artifact_path(config, self.kind)
        read = _read_manifests(config, self.reads)
        sources = self.files(config)
        inputs = {kind: manifest.id for kind, manifest in read.items()} | (sources.hashes() if sources else {})
        manifest = Manifest.of(self.kind, inputs, self.settings(config))
        if not force and _is_current(path, manifest):
            logger.info("%s: up to date, skipped (--force redoes it)", self.kind)
            return path
        written = write_artifact(
            path, manifest, lambda folder: self.write(Task(config, folder, manifest, read, sources, force))
        )
        self.finish(config)
        logger.info("%s: %s", self.kind, self.summary(path, written.content))
        return path


def artifact_path(config: Config, kind: str) -> Path:
    """Folder of one artifact of the run."""
    return config.run_path / kind


def write_config(config: Config) -> None:
    """Write the resolved configuration beside the artifacts."""
    config.run_path.mkdir(parents=True, exist_ok=True)
    (config.run_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")


def _read_manifests(config: Config, kinds: tuple[str, ...]) -> dict[str, Manifest]:
    read = {kind: read_manifest(artifact_path(config, kind), kind) for kind in kinds}
    for kind, manifest in read.items():
        for name in manifest.inputs.keys() & read.keys():
            require_same(name, manifest.inputs[name], read[name].id, artifact_path(config, kind))
    return read


def _is_current(path: Path, manifest: Manifest) -> bool:
    try:
        return read_manifest(path, manifest.kind).key == manifest.key
    except ArtifactError:
        return False
