"""All stages of a run in order, each skipped when its artifact is up to date."""

import logging
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from gam_kg.config import Config
from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.importers.dispatch import import_facts, import_state
from gam_kg.run_folder import remove_finished_training, waiting
from gam_kg.text import is_uri, user_path
from .prediction_file import deliver_predictions
from .progress import stage_position
from .report import show_metrics
from .stages import Stage, confirm, owned
from .workflow import PREDICTIONS, finished

logger = logging.getLogger("gam_kg")


def run(config: Config, *, force: bool = False, take_over: bool = False) -> Path:
    """Facts → graph → checkpoint → evaluation, embeddings, predictions, report.

    A finished run starts no Ray.

    Args:
        config: The run's configuration.
        force: Redo every stage.
        take_over: Work in a run folder whose owner, on another machine, gives no sign of life.

    Returns:
        The run folder.

    Raises:
        GamKGError: A stage fails; the artifacts of the stages before it remain.
    """
    PREDICTIONS.files(config)  # a mistake in what is read last is refused before the work of hours
    with owned(config, "run", take_over=take_over):
        if facts := facts_to_import(config, force=force):
            with _numbered(config, "import"):
                _import(config, facts)
        if not force and (found := finished(config)):
            for path, situation in found.items():
                confirm(path, situation)
            logger.info("finished: up to date (--force redoes every stage)")
            remove_finished_training(config.run_path)
            deliver_predictions(config)
        else:
            _run_stages(config, force=force)
        show_metrics(config)
    return config.run_path


def _run_stages(config: Config, *, force: bool) -> None:
    from .embed import embed
    from .evaluate import evaluate
    from .predict import predict
    from .prepare import prepare
    from .ray_session import ray_session
    from .report import report
    from .train import train

    def do(stage: Stage) -> None:
        with _numbered(config, stage.about.verb):
            stage(config, force=force)

    limited = config.prepare.memory_gib is not None
    if limited:  # in a Ray of its own, started with the limit
        do(prepare)
    with ExitStack() as stack:
        if config.train.most_workers > 1:  # every stage needs Ray: one for all of them
            stack.enter_context(ray_session())
        with ray_session():
            if not limited:
                do(prepare)
            do(train)
        for stage in (evaluate, embed, predict, report):  # evaluation leaves the state from which the others go on
            do(stage)


def _numbered(config: Config, verb: str) -> AbstractContextManager[None]:
    imported = ("import",) if config.data.import_from is not None else ()
    verbs = (*imported, "prepare", "train", "evaluate", "embed", "predict", "report")
    return stage_position(verbs.index(verb) + 1, len(verbs), verb)


def import_if_missing(config: Config) -> None:
    """Import `data.import_from` to `data.facts` where that is not there yet, or is not of what the source has now.

    Raises:
        ConfigError: See `facts_to_import`.
        DataError: The source cannot be imported.
    """
    if facts := facts_to_import(config):
        _import(config, facts)


def facts_to_import(config: Config, *, force: bool = False) -> Path | None:
    """The file to which `data.import_from` is to be imported; None where there is nothing to import.

    Args:
        config: The run's configuration.
        force: Import also what is up to date.

    Raises:
        ConfigError: `data.facts` is not set, a URI, or a file that is no import.
    """
    data = config.data
    if data.import_from is None:
        return None
    if data.facts is None or is_uri(data.facts):
        raise ConfigError(f"data.facts={data.facts}: data.import_from needs a local file to write the facts to")
    facts = user_path(data.facts, "data.facts")
    state = import_state(facts, data.import_from, data)
    if state == "foreign":
        raise ConfigError(
            f"data.facts={data.facts} exists and was not imported from anything; an import of {data.import_from} would "
            "replace it: name another file, or drop data.import_from"
        )
    if state == "gone":
        logger.warning("warning: %s is gone; %s, imported from it, is used", data.import_from, data.facts)
        return None
    return None if state == "current" and not force else facts


def _import(config: Config, facts: Path) -> None:
    data = config.data
    assert data.import_from is not None
    for line in import_facts(data.import_from, facts, data).lines():
        logger.info(line)


def graph_for_trainings(config: Config) -> Path:
    """Prepare the run's graph for trainings that are not the run's own.

    The caller owns the run's folder.

    Returns:
        The folder of the graph, which stays in place as long as the caller owns the run's.

    Raises:
        ArtifactError: A graph that differs waits for a training of the run itself.
        GamKGError: The facts cannot be imported or prepared.
    """
    from .prepare import prepare

    import_if_missing(config)
    if prepare(config) != config.run_path / "graph":
        raise ArtifactError(
            f"{waiting(config.run_path, 'graph')} waits for a training of the run itself; run gam-kg train CONFIG, or "
            "set run_dir to another folder"
        )
    return config.run_path / "graph"
