"""All stages of a run in order, each skipped when its artifact is up to date."""

import logging
from contextlib import ExitStack
from pathlib import Path

from gam_kg.config import Config
from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.importers.dispatch import import_facts, import_state
from gam_kg.run_folder import remove_finished_training, waiting
from gam_kg.text import is_uri, user_path
from .prediction_file import deliver_predictions
from .report import show_metrics
from .stages import confirm, owned
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
        import_if_missing(config, force=force)
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

    limited = config.prepare.memory_gib is not None
    if limited:  # in a Ray of its own, started with the limit
        prepare(config, force=force)
    with ExitStack() as stack:
        if config.train.most_workers > 1:  # every stage needs Ray: one for all of them
            stack.enter_context(ray_session())
        with ray_session():
            if not limited:
                prepare(config, force=force)
            train(config, force=force)
        for stage in (evaluate, embed, predict, report):  # evaluation leaves the state from which the others go on
            stage(config, force=force)


def import_if_missing(config: Config, *, force: bool = False) -> None:
    """Import `data.import_from` to `data.facts` where that is not there yet, or is not of what the source has now.

    Raises:
        ConfigError: `data.facts` is not set, a URI, or a file that is no import.
        DataError: The source cannot be imported.
    """
    data = config.data
    if data.import_from is None:
        return
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
        return
    if state == "current" and not force:
        return
    summary = import_facts(data.import_from, facts, data)
    for line in summary.lines():
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
