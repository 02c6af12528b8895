"""`update --fine-tune`: the newest snapshots are trained on, and what that is worth is stored beside the weights."""

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gam_kg.artifacts import Content
from gam_kg.config import Config
from gam_kg.graph.update_chain import write_update
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.parquet import write_table
from gam_kg.training.fine_tune import fine_tune, newest_optimizer_state
from .progress import counted
from .ranks import OnEvent, on_ranks
from .run_before import RunBefore

_WORTH = "worth.json"

logger = logging.getLogger("gam_kg")


def fine_tune_settings(config: Config, number: int) -> dict[str, Any]:
    """What a fine-tuning on some of the newest snapshots depends on."""
    return {"number": number, "rate": config.update.fine_tune_rate}


def fine_tune_run(before: RunBefore, number: int) -> None:
    """Train on the newest snapshots; an update without facts has the new weights, unless they are clearly worse.

    Args:
        before: The run.
        number: How many snapshots with facts, at least 2.

    Raises:
        ConfigError: There are fewer.
    """
    config, run = before.config, before.config.run_path
    with TemporaryDirectory(prefix=".weights-", dir=run) as folder:
        settings = fine_tune_settings(config, number)
        on_ranks(config, fine_tune_worker, {**settings, "folder": folder}, "fine-tune")
        found = json.loads(Path(folder, _WORTH).read_text(encoding="utf-8"))
        Path(folder, _WORTH).unlink()
        logger.info(found["text"])
        if found["is_worse"]:
            logger.warning("the run keeps its weights, since those of fine-tuning are clearly worse")
            return

        def move(update: Path) -> Content:
            for file in Path(folder).iterdir():
                file.rename(update / file.name)
            return {"fine_tuning": found["text"]}

        write_update(
            run,
            graph=before.graph,
            checkpoint=before.checkpoint,
            previous=before.updates[-1] if before.updates else None,
            vocabularies=before.vocabularies,
            facts=np.empty((0, 4), np.int64),
            open_facts=before.open_facts,
            config={"fine_tune": settings},
            write_more=move,
        )


def fine_tune_worker(run: TrainedRun, settings: dict[str, Any], on_event: OnEvent) -> None:
    """Fine-tune a rank; all write their weights, and rank 0 what they are worth.

    Args:
        run: The run, as the rank has it.
        settings: `number` of snapshots; learning `rate`, or None; `folder`, where to write.
        on_event: Receives progress: snapshots done, of how many.
    """
    folder, number = Path(settings["folder"]), settings["number"]
    made = run.checkpoint_manifest.config
    config = Config.model_validate({"seed": made["seed"], "model": made["model"], "train": made["train"]})
    state = newest_optimizer_state(run.path / "checkpoint", run.graph_manifest, run.updates, run.model)
    found = fine_tune(
        config,
        run.graph,
        run.model,
        state,
        number,
        communicator=run.sharded.communicator,
        history=run.history,
        memory_before=lambda snapshot: run.memory_before(snapshot).copy(),
        learning_rate=settings["rate"],
        tick=counted(lambda done: on_event((done, number + max(1, number // 4)))),
    )
    found.write(folder)
    if run.graph.partition.rank == 0:
        write_table(found.table, folder / "fine_tuning.parquet")
        worth = {"text": found.text, "is_worse": found.gain.high < 0}
        (folder / _WORTH).write_text(json.dumps(worth), encoding="utf-8")
