"""All stages of a run in order, each skipped when its artifact is up to date."""

import logging
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from gam_kg.config import Config
from gam_kg.errors import ArtifactError
from gam_kg.run_folder import remove_finished_training, waiting
from gam_kg.workflow.imports import facts_to_import, import_if_missing, import_to
from gam_kg.workflow.prediction_file import deliver_predictions
from gam_kg.workflow.situation import PREDICTIONS, finished
from gam_kg.workflow.stage import Stage, confirm, owned
from .progress import stage_position
from .report import show_metrics

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
                import_to(facts, config)
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
