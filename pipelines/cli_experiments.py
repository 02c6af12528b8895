"""The verbs of the command line that set runs against each other: compare, ensemble, ablate, tune."""

import math
from pathlib import Path
from typing import Annotated

import typer

from gam_kg.run_config import config_of_run, folder_of_run
from gam_kg.text import user_path
from .cli_arguments import ConfigFile, Overrides, TakeOver
from .parts import PARTS, choose_parts
from .progress import results

_EVALUATED = ("graph", "checkpoint", "updates", "state", "evaluation")


def compare_command(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Folders, URIs or YAML files of evaluated runs on the same facts."),
    ],
) -> None:
    """Runs side by side: settings that differ, MRR and hits; MRR by direction, stratum, entities, horizon and relation.

    Each run is compared with the first, by the difference of MRR and its 95 % interval, a paired bootstrap over
    queries: where it leaves out zero, the queries are enough to tell the two runs apart. It does not cover what other
    seeds would change; `ablate` trains several.
    """
    folders = _folders(runs)
    from .compare import show_comparison

    show_comparison(folders)


def _folders(runs: list[str]) -> list[Path]:
    folders = [folder_of_run(run, "RUN", *_EVALUATED) for run in runs]
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise typer.BadParameter("give at least two runs, each once")
    return folders


def ensemble_command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Folders, URIs or YAML files of evaluated runs, two or more, on one graph."
        ),
    ],
    out: Annotated[str | None, typer.Option(help="Also write evaluation/ into this new folder, for compare.")] = None,
) -> None:
    """Several runs scored together, as seeds of one configuration: a candidate's score is the mean of theirs.

    It ranks what all of them were evaluated on and shows MRR and hits of each run, of all together, and of the best
    untrained baseline, with the differences to all together and their 95 % intervals (paired bootstrap over queries).
    """
    folders = _folders(runs)
    folder = user_path(out, "--out") if out is not None else None
    from .ensemble import ensemble

    ensemble(folders, folder)


def ablate_command(
    config: ConfigFile,
    overrides: Overrides = None,
    parts: Annotated[
        str | None, typer.Option(help=f"Parts to switch off, divided by commas; none: all, {', '.join(PARTS)}.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each part, with the seeds from CONFIG's on.")] = 3,
    out: Annotated[str | None, typer.Option(help="Folder for the results; none: ablation/ of the run.")] = None,
    take_over: TakeOver = False,
) -> None:
    """Train with parts of the model switched off, one at a time, and show what each part is worth.

    Each training is a run of its own in ablation/PART-SEED/ of the run's folder, all on the run's graph. A part that
    CONFIG has off is left out. Given again, the command skips what is finished and continues what was interrupted.

    It writes ablation.html, .parquet and .png: MRR by split and setting with its spread over the seeds, the difference
    to the full model with a 95 % interval over queries, and seconds an epoch.
    """
    resolved = config_of_run(config, overrides or ())
    names = [name.strip() for name in parts.split(",")] if parts is not None else None
    choose_parts(resolved, names)  # before the slow imports: a mistake is reported at once
    folder = user_path(out, "--out") if out is not None else None
    from .ablate import ablate

    page = ablate(resolved, names, seeds, folder, take_over=take_over)
    results.print(f"finished: {page}", soft_wrap=True, markup=False)


def tune_command(
    config: ConfigFile,
    space: Annotated[str, typer.Argument(metavar="SPACE", help="YAML file of the settings to search.")],
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all; more may be given later.")] = 20,
    concurrent: Annotated[int, typer.Option(min=1, help="Trials at the same time, each with its own memory.")] = 2,
    hours: Annotated[float | None, typer.Option(help="Stop after so many hours; none: when all have ended.")] = None,
    take_over: TakeOver = False,
) -> None:
    """Search for settings of model and training by validation MRR, with Ray Tune and ASHA.

    SPACE has a line for each setting: train.learning_rate: {loguniform: [0.0003, 0.003]}, or {uniform: [0, 0.5]},
    {randint: [1, 4]} with both ends, {choice: [100, 200]}. All other settings are those of CONFIG. Trials train for
    train.epochs epochs at most; after epochs 1, 3, 9, ... ASHA stops those that are not in the best third.

    It writes best.yaml, for `gam-kg run`, and trials.parquet into tune/ of the run's folder. Given again, the command
    continues. Test facts are never ranked.
    """
    if hours is not None and not 0 < hours < math.inf:
        raise typer.BadParameter(f"--hours {hours}: give a number above 0")
    resolved = config_of_run(config, overrides or ())
    from .search_space import SearchSpace

    found = SearchSpace.read(user_path(space, "SPACE"), resolved)
    found.draw(resolved, trials)  # before the slow imports: a mistake is reported at once
    from .tune import BEST, search

    folder = search(resolved, found, trials, concurrent=concurrent, hours=hours, take_over=take_over)
    results.print(f"finished: {folder / BEST}", soft_wrap=True, markup=False)
