"""The index verb: a version of embeddings/ → a version of index/ in faiss; and a search that uses it."""

import logging
from pathlib import Path

from gam_kg.config import Config
from gam_kg.inference.faiss_index import RECALL_AT
from gam_kg.inference.vector_index import VectorIndex, build_index, current_index
from gam_kg.inference.vector_source import find_version
from gam_kg.workflow.stage import owned
from .search import Found, Question

logger = logging.getLogger("gam_kg")


def index(config: Config, at: str | None = None, *, force: bool = False, take_over: bool = False) -> Path:
    """Build the index of a version, unless it is there.

    Returns:
        Its folder.

    Raises:
        GamKGError: See `build_index`; or another process writes into the run folder.
    """
    with owned(config, "index", take_over=take_over):
        run = config.run_path
        name = find_version(run, at)
        made = None if force else current_index(run, name, config.index)
        if made is not None:
            logger.info("index: up to date, skipped (--force redoes it)")
        else:
            made = build_index(run, name, config.index, lambda text: logger.info("index: %s", text))
        found = made.content
        logger.info(
            "index: %s over %s vectors, recall@%d %.1f %%, %s",
            found["kind"],
            f"{found['num_vectors']:,}",
            RECALL_AT,
            100 * found["recall"],
            run / "index" / name,
        )
        return run / "index" / name


def look_up_by_index(run_path: Path, question: Question) -> Found:
    """The entities nearest to one, by the index of a version.

    Raises:
        ArtifactError: There is no index, or the embeddings were replaced after it was built.
        DataError: The name is unknown; the message has the closest names.
    """
    assert question.like is not None
    found = VectorIndex.load(run_path, question.at)
    about = found.manifest.content
    label = about["version"].removeprefix("as_of=")
    title = f"nearest to {question.like} after {label} (by an index of recall {100 * about['recall']:.1f} %)"
    return Found({"like": question.like, "timestamp": label}, found.like(question.like, question.top_k), title)
