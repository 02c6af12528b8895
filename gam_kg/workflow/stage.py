"""A stage makes one artifact from other artifacts or files. `Stage` runs any of them."""

import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gam_kg.artifacts import Content, read_manifest, save_manifest, write_artifact
from gam_kg.config import Config
from gam_kg.errors import DataError, OutputError, writing
from gam_kg.mirror import mirrored
from gam_kg.output import remove
from gam_kg.run_config import CONFIG, mend_config, write_config
from gam_kg.run_folder import place_to_write, settle, waiting
from gam_kg.run_lock import run_lock
from gam_kg.versions import point_latest, publish
from gam_kg.workflow.inputs import record, waiting_notice
from gam_kg.workflow.logs import working_on
from gam_kg.workflow.situation import Description, Situation

if TYPE_CHECKING:  # it imports torch
    from gam_kg.inference.trained_run import TrainedRun

logger = logging.getLogger("gam_kg")


@dataclass(frozen=True)
class Task(Situation):
    """One run of a stage.

    Attributes:
        folder: Empty folder for the files of the artifact.
        force: Whether the user requires that the stage is redone.
        opened: The run, if this process has it open already.
    """

    folder: Path
    force: bool
    opened: "TrainedRun | None"


@dataclass(frozen=True)
class Stage:
    """How one artifact of a run is made.

    Attributes:
        about: What it makes, and from what.
        write: Writes the files and returns the content of the manifest.
        summary: (folder, content) → the artifact in a line.
        finish: Called when a new artifact is in place.
        deliver: Called when the artifact is in place, also when it already was.
    """

    about: Description
    write: Callable[[Task], Content]
    summary: Callable[[Path, Content], str]
    finish: Callable[[Config], None] = lambda _: None
    deliver: Callable[[Config], None] = lambda _: None

    def __call__(
        self, config: Config, *, force: bool = False, take_over: bool = False, opened: "TrainedRun | None" = None
    ) -> Path:
        """Make the artifact, unless it is there already, made from the same inputs with the same settings.

        Args:
            config: The run's configuration.
            force: Make it in any case.
            take_over: Work in a run folder whose owner, on another machine, gives no sign of life.
            opened: The run, if this process has it open already.

        Returns:
            The folder of the artifact.

        Raises:
            ArtifactError: An artifact that it is made from is missing, or they do not belong together.
            ConfigError: Settings differ from those that these artifacts were made with.
            OutputError: The run folder cannot be written.
            RunInUseError: Another process writes into the run folder.
            GamKGError: What the stage itself refuses.
        """
        kind, run = self.about.kind, config.run_path
        with owned(config, self.about.verb, take_over=take_over):
            found = Situation.of(self.about, config)
            for notice in found.notices:
                logger.warning("warning: %s", notice)
            if "checkpoint" in self.about.reads and (notice := waiting_notice(run)):
                logger.warning("warning: %s", notice)
            if not force and (current := found.current(logger.warning)):
                confirm(current, found)
                logger.info("%s: up to date, skipped (--force redoes it)", kind)
                if current == waiting(run, kind):
                    logger.info(waiting_notice(run))
                else:
                    remove(waiting(run, kind))
                if not (run / CONFIG).exists():  # a process was killed before it was written
                    write_config(config)
                self.deliver(config)
                return current
            if opened is None:
                found.require_whole()
            path = self._make(found, force, opened)
            settle(run)
            write_config(config)
            self.finish(config)
            self.deliver(config)
            path = path if path.exists() else run / kind
            logger.info("%s: %s", kind, self.summary(path, read_manifest(path, kind).content))
            if path == waiting(run, kind):
                logger.info(waiting_notice(run))
            return path

    def _make(self, found: Situation, force: bool, opened: "TrainedRun | None") -> Path:
        kind, run, moment = self.about.kind, found.config.run_path, found.moment

        def write(folder: Path) -> Content:
            return self._write(found, folder, force, opened)

        if moment is not None:
            keep = found.config.publish
            return publish(run / kind, moment.version, found.manifest, write, keep, at_end=moment.at_end)
        path = place_to_write(run, kind)
        write_artifact(path, found.manifest, write)
        return path

    def _write(self, found: Situation, folder: Path, force: bool, opened: "TrainedRun | None") -> Content:
        content = self.write(Task(**vars(found), folder=folder, force=force, opened=opened))
        if record(found.config, found.stage.keys, found.sources) != found.manifest.sources:
            raise DataError(f"{' or '.join(found.stage.keys)}: files changed while they were read; run it again")
        after = {"after": found.moment.label, "after_snapshot": found.moment.snapshot} if found.moment else {}
        notices = [*found.notices, *content.get("notices", ())]
        return content | after | ({"notices": notices} if notices else {})


@contextmanager
def owned(config: Config, verb: str, *, take_over: bool = False) -> Generator[None]:
    """Own the run's folder while the block writes into it; see `mirrored` for a run at a URI.

    Raises:
        OutputError: It cannot be written.
        RunInUseError: Another process writes into it.
        StorageError: It is at a URI, and the storage cannot be used.
    """
    run = config.run_path
    is_new = not run.exists()
    try:
        with ExitStack() as stack:
            stack.enter_context(working_on(run.name, verb))
            stack.enter_context(run_lock(run, verb, take_over=take_over))
            stack.enter_context(writing(run / verb))
            stack.enter_context(mirrored(config.run_dir, verb, take_over=take_over))
            settle(run)
            mend_config(run)
            yield
    except Exception as error:
        if "No space left on device" in str(error) and not isinstance(error, OutputError):  # as other libraries say it
            raise OutputError(f"cannot write {run}: no space left on its disk ({error}); free space") from error
        raise
    finally:
        if is_new:  # nothing was made, because of a mistake
            with suppress(OSError):
                run.rmdir()


def confirm(current: Path, found: Situation) -> None:
    """Record where the input files are now, if equal ones were moved or written anew; point `latest` at a version."""
    made = read_manifest(current, found.stage.kind)
    if made.sources != found.manifest.sources:
        save_manifest(current, replace(made, sources=found.manifest.sources))
        write_config(found.config)
    if found.moment is not None:
        point_latest(current, at_end=found.moment.at_end)
