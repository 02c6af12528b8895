"""Arguments and options that several verbs of the command line have."""

from typing import Annotated

import typer

from gam_kg import __version__
from gam_kg.config_file import CONFIG_NAMES, CONFIGS
from .progress import results


def _show_version(given: bool) -> None:
    if given:
        results.print(f"gam-kg {__version__} (configs in {CONFIGS})", soft_wrap=True, markup=False)
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version, and where the configs are."
    ),
]
ConfigFile = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="YAML file, folder or URI of the run, or the name of a file that comes with gam-kg: "
        f"{', '.join(CONFIG_NAMES)}.",
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="a.b=value, over those of the file.")]
Force = Annotated[bool, typer.Option("--force", help="Redo the stage even if its artifact is up to date.")]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Go on in a run folder whose owner, on another machine, shows no sign of life."),
]
