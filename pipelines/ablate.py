"""Trainings of a configuration with its parts switched off, one at a time, over several seeds."""

import json
import logging
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import numpy as np

from gam_kg.config import Config
from gam_kg.errors import ArtifactError
from gam_kg.inference.ablation import Ablation, ablation_pages, ablation_table, draw_ablation
from gam_kg.inference.report_html import write_html
from gam_kg.inference.run_comparison import Ranked, compare
from gam_kg.output import replacing
from gam_kg.parquet import write_table
from gam_kg.progress import duration
from gam_kg.workflow.stage import owned
from .evaluate import evaluate
from .parts import choose_parts
from .ray_session import ray_session
from .report import show_table
from .run import graph_for_trainings
from .train import train

logger = logging.getLogger("gam_kg")

_NOTES = (
    "Each row is the model without one part. Mean, std, least and most are over the seeds. The difference is to the "
    "full model of the same seeds; its interval is a paired bootstrap over queries, and does not cover other seeds.",
    "Choose by the figures of validation; those of test are for the report alone. Every training selects its epoch on "
    "validation MRR.",
)


def ablate(
    config: Config, parts: Sequence[str] | None, num_seeds: int, out: Path | None = None, *, take_over: bool = False
) -> Path:
    """Train and evaluate with each part off, unless that was done before, and write what each part is worth.

    Each training is a run of its own in `ablation/<part>-<seed>/` of the run's folder, and reads the run's graph.

    Args:
        config: The configuration with all its parts.
        parts: Names of parts to switch off, see `parts.py`; None: all.
        num_seeds: Trainings of each; their seeds are the configuration's and those after it.
        out: Folder of `ablation.html`, `.parquet` and `.png`; None: `ablation/` of the run's folder.
        take_over: Work in a run folder whose owner, on another machine, gives no sign of life.

    Returns:
        The page with the tables.

    Raises:
        GamKGError: A stage fails. The trainings before it remain, and the next call goes on from there.
    """
    chosen = choose_parts(config, parts)
    with owned(config, "ablate", take_over=take_over):
        graph = graph_for_trainings(config)
        runs: dict[str, list[Path]] = {part: [] for part in chosen}
        folder = out or config.run_path / "ablation"
        trainings = [
            (part, seed, _child(config, without, part, seed))
            for seed in range(config.seed, config.seed + num_seeds)
            for part, without in chosen.items()
        ]
        took: list[float] = []
        with ray_session():
            for number, (part, seed, child) in enumerate(trainings, 1):
                left = f", about {duration((len(trainings) + 1 - number) * mean(took))} left" if took else ""
                logger.info("ablate: %d of %d: %s, seed %d%s", number, len(trainings), part, seed, left)
                before, started = _evaluated_at(child.run_path), time.monotonic()
                runs[part].append(_train(graph, child, take_over))
                if _evaluated_at(child.run_path) != before:
                    took.append(time.monotonic() - started)
                # The tables of the first seed grow part by part, and those of another need all of its trainings.
                if seed == config.seed or number % len(chosen) == 0:
                    _write(folder, config.name, ablations := _compare(runs))
    if not _can_draw():
        logger.warning("ablate: no picture; for one, pip install 'gam-kg[report]'")
    for header, rows in ablation_pages(ablations):
        show_table("" if header[0].startswith("valid") else "for the report alone, not to choose by:", header, rows)
    return folder / "ablation.html"


def _can_draw() -> bool:
    return find_spec("matplotlib") is not None


def _evaluated_at(run: Path) -> int:
    """When a run was evaluated; those that are done already are not again."""
    manifest = run / "evaluation" / "manifest.json"
    return manifest.stat().st_mtime_ns if manifest.exists() else 0


def _child(config: Config, without: Config, part: str, seed: int) -> Config:
    """The configuration of one training."""
    name, splits = f"{part}-{seed}", tuple(dict.fromkeys(("valid", *config.evaluate.splits)))
    place = {"name": f"{config.name}-{name}", "run_dir": str(config.run_path / "ablation" / name)}
    return without.changed({**place, "seed": seed, "evaluate.splits": splits, "evaluate.baselines": False})


def _train(graph: Path, child: Config, take_over: bool) -> Path:
    """Train and evaluate one run, whose graph is a link to another."""
    link = child.run_path / "graph"
    with owned(child, "ablate", take_over=take_over):
        target = os.path.relpath(graph, child.run_path)
        if not link.is_symlink() or os.readlink(link) != target:
            if link.exists() and not link.is_symlink():
                raise ArtifactError(f"{link} is a graph of its own, where ablate needs a link to {target}; remove it")
            with replacing(link) as staging:
                staging.symlink_to(target)
        train(child)
        evaluate(child)
    return child.run_path


def _compare(runs: dict[str, list[Path]]) -> list[Ablation]:
    ranked = {part: [Ranked.read(run) for run in of_part] for part, of_part in runs.items() if of_part}
    full = next(iter(ranked.values()))
    return [Ablation(part, _seconds(runs[part]), compare(full, without)) for part, without in ranked.items()]


def _seconds(runs: Sequence[Path]) -> float:
    """Seconds of training an epoch."""
    logs = [run / "checkpoint" / "metrics.jsonl" for run in runs]
    return float(np.mean([json.loads(line)["seconds"] for log in logs for line in log.read_text("utf-8").splitlines()]))


def _write(folder: Path, name: str, ablations: Sequence[Ablation]) -> None:
    page = folder / "ablation.html"
    with replacing(page.with_suffix(".parquet")) as staging:
        write_table(ablation_table(ablations), staging)
    if _can_draw():
        with replacing(page.with_suffix(".png")) as staging:
            draw_ablation(ablations, staging)
    write_html(page, f"gam-kg: what the parts of {name} are worth", _NOTES, list(ablation_pages(ablations)))
