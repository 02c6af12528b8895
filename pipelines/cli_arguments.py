"""Arguments and options that several verbs of the command line have."""

from typing import Annotated

import typer

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file of the run.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="a.b=value, over those of the file.")]
Force = Annotated[bool, typer.Option("--force", help="Redo the stage even if its artifact is up to date.")]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Go on in a run folder whose owner, on another machine, shows no sign of life."),
]
