"""The ensemble verb: evaluated runs scored together, beside each of them and the best untrained baseline."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gam_kg.artifacts import Manifest, read_manifest, require_same, write_artifact
from gam_kg.config import EvaluateConfig
from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.inference.comparison_tables import ensemble_tables
from gam_kg.inference.evaluation import count_ticks, evaluate_run
from gam_kg.inference.run_comparison import Ranked, ranked_by_all
from .evaluate import write_evaluation
from .progress import counted, progress, results
from .report import show_table
from .search import opened


def ensemble(paths: Sequence[Path], out: Path | None = None) -> None:
    """Rank with the mean of the runs' scores what all of them were evaluated on, and print the figures.

    Args:
        paths: Folders of the runs.
        out: New folder for `evaluation/` of all runs together; None: nothing is written.

    Raises:
        ArtifactError: A run has no current evaluation, cannot be read, or is on another graph than the first.
        ConfigError: `out` is there already.
        EvaluationError: The runs were not evaluated on the same answers.
    """
    if out is not None and out.exists():
        raise ConfigError(f"--out {out}: it is there already; name another folder")
    evaluations = [read_manifest(path / "evaluation", "evaluation") for path in paths]
    graphs = [evaluation.inputs["graph"] for evaluation in evaluations]
    for path, graph in zip(paths, graphs, strict=True):
        if graph != graphs[0]:
            raise ArtifactError(
                f"{paths[0]} and {path} are on different graphs ({graphs[0]} and {graph}), so that their scores are of "
                "other entities or facts; train both on the same facts with the same settings of data and prepare"
            )
    ranked = [Ranked.read(path) for path in paths]
    splits, settings = (list(dict.fromkeys(names)) for names in zip(*ranked_by_all(ranked), strict=True))
    values = {"splits": splits, "settings": settings, "baselines": False}
    config = EvaluateConfig.model_validate({**evaluations[0].config["evaluate"], **values})
    with ExitStack() as stack:
        runs = [stack.enter_context(opened(path)) for path in paths]
        for run, evaluation in zip(runs, evaluations, strict=True):
            for made in (run.graph_manifest, run.checkpoint_manifest):
                require_same(made.kind, evaluation.inputs[made.kind], made.id, run.path / "evaluation")
        with progress("ensemble", count_ticks(runs[0], config)) as advance:
            found = evaluate_run(runs[0], config, counted(advance), runs[1:])
    together = Ranked.from_table(f"{len(runs)} runs together", found.ranks)
    for table in ensemble_tables(together, ranked):
        show_table("", *table)
    if out is not None:
        made_from = {str(path): evaluation.id for path, evaluation in zip(paths, evaluations, strict=True)}
        manifest = Manifest.of(
            "evaluation", {"graph": graphs[0], **made_from}, {"evaluate": config.model_dump(mode="json")}
        )
        write_artifact(out / "evaluation", manifest, lambda folder: write_evaluation(found, folder))
        results.print(f"finished: {out / 'evaluation'}", soft_wrap=True, markup=False)
