"""All stages of a run in order, each skipped when its artifact is up to date."""

import logging
from contextlib import ExitStack
from pathlib import Path

from gam_kg.config import Config
from gam_kg.errors import ConfigError
from gam_kg.importers.dispatch import import_facts, is_import_of
from pipelines.embed import embed
from pipelines.evaluate import evaluate
from pipelines.predict import predict
from pipelines.prepare import prepare
from pipelines.ray_session import ray_session
from pipelines.report import report, show_metrics
from pipelines.stages import write_config
from pipelines.train import train

logger = logging.getLogger("gam_kg")


def run(config: Config, *, force: bool = False) -> Path:
    """Facts → graph → checkpoint → evaluation, embeddings, predictions, report.

    Args:
        config: The run's configuration.
        force: Redo every stage.

    Returns:
        The run folder.

    Raises:
        GamKGError: A stage fails; the artifacts of the stages before it remain.
    """
    write_config(config)
    import_if_missing(config, force=force)
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
        for stage in (embed, evaluate, predict, report):
            stage(config, force=force)
    show_metrics(config)
    return config.run_path


def import_if_missing(config: Config, *, force: bool = False) -> None:
    """Import `data.import_from` to `data.facts` where that file is not there yet, or is of another source.

    Raises:
        ConfigError: `data.facts` is missing or a URI.
    """
    data = config.data
    if data.import_from is None:
        return
    if data.facts is None or "://" in data.facts:
        raise ConfigError(f"data.facts={data.facts}: data.import_from needs a local file to write the facts to")
    if not force and is_import_of(Path(data.facts), data.import_from):
        return
    summary = import_facts(data.import_from, Path(data.facts), data.columns)
    for line in summary.lines():
        logger.info(line)
