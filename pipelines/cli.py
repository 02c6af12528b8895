"""The command line: one verb a stage, `run` for all of them.

Errors for the user are printed without a traceback and end with the status that `gam-kg --help` says.
"""

import inspect
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from gam_kg.config import Config, load_config
from gam_kg.config_file import validated
from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import exit_status
from gam_kg.plan.gpus import GPUS
from gam_kg.run_config import config_of_run
from gam_kg.storage import is_remote
from gam_kg.synthetic.groups import SyntheticConfig
from gam_kg.text import printable, user_path
from gam_kg.workflow.logs import set_up_logging
from .cli_arguments import ConfigFile, Force, Overrides, TakeOver, Version
from .cli_experiments import ablate_command, compare_command, ensemble_command, tune_command
from .cli_explain import explain_command
from .cli_index import export_command, index_command
from .cli_jobs import job_app, submit_command
from .cli_search import SearchCommand, search_command
from .progress import console, results

logger = logging.getLogger("gam_kg")
app = typer.Typer(
    help="Temporal knowledge-graph embeddings on Ray.",
    epilog="Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted; of submit and job logs also 3 "
    "the job was stopped, 4 the connection was lost and the job may go on.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(_: Version = False) -> None:
    """Options without a verb."""


@app.command("run")
def run_command(
    config: ConfigFile, overrides: Overrides = None, force: Force = False, take_over: TakeOver = False
) -> None:
    """Do all stages: import, prepare, train, embed, evaluate, predict, report."""
    resolved = config_of_run(config, overrides or ())  # before the slow imports: a mistake is reported at once
    from .run import run

    run_path = run(resolved, force=force, take_over=take_over)
    place = resolved.run_dir if is_remote(resolved.run_dir) else run_path
    results.print(f"finished: {place}", soft_wrap=True)


@app.command("import")
def import_command(
    source: Annotated[
        str, typer.Argument(help="Folder with train.txt, a CSV/TSV file, folder or glob of them, or 'lahman[:YEAR]'.")
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Parquet file to write.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="subject=head where a column is named head; other settings of data, as csv.separator=;"),
    ] = None,
) -> None:
    """Turn the field's folder format, CSV/TSV or the lahman package into a Parquet of facts."""
    from gam_kg.importers.dispatch import import_facts

    data = load_config(None, [_data_override(setting) for setting in settings or ()]).data
    for line in import_facts(source, user_path(out, "OUT"), data, prefix="").lines():
        results.print(printable(line), soft_wrap=True, markup=False)


def _data_override(setting: str) -> str:
    """A setting of import as an override: column names need no `data.columns`, the others no `data`."""
    key = setting.partition("=")[0].removeprefix("data.")
    inside = "columns." if key in ColumnsConfig.model_fields else ""
    return f"data.{inside}{setting.removeprefix('data.')}"


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of SyntheticConfig, in place of its `**settings`."""
    signature = inspect.signature(command)
    fixed = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option(field.default, help=field.description),
            annotation=field.annotation,
        )
        for name, field in SyntheticConfig.model_fields.items()
    ]
    command.__signature__ = signature.replace(parameters=[*fixed, *options])  # ty: ignore[missing-attribute]
    return command


@app.command("generate")
@_with_settings
def generate_command(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write; `prepare` reads it as data.facts=OUT.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a graph generated there before.")] = False,
    **settings: Any,
) -> None:
    """Write a synthetic graph of any size whose best-possible MRR is known. Shares are relative to their sum."""
    config = validated(SyntheticConfig, settings, "generate")
    from .generate import generate, summary_lines

    folder = user_path(out, "OUT")
    for line in summary_lines(folder, generate(folder, config, force=force)):
        results.print(printable(line), soft_wrap=True, markup=False)


@app.command("update")
def update_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URI of a finished run, or its YAML file.")],
    overrides: Overrides = None,
    facts: Annotated[
        str | None, typer.Option(help="New facts: Parquet or CSV file, folder, glob or URI; none: data.facts.")
    ] = None,
    late: Annotated[
        Literal["refuse", "replay", "quarantine"] | None,
        typer.Option(help="What to do with facts before the last snapshot; none: as update.late says."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder or URI that gets a copy of each published version.")
    ] = None,
    fine_tune: Annotated[
        int, typer.Option(min=0, help="Then train on this many of the newest snapshots; 0: do not train.")
    ] = 0,
    take_over: TakeOver = False,
) -> None:
    """Add new facts to a finished run without training: rank them first, then publish embeddings and predictions."""
    resolved = config_of_run(run, overrides or ())
    from .update import update

    version = update(resolved, facts, late=late, fine_tune_on=fine_tune, to=to, take_over=take_over)
    results.print(f"published: {version}", soft_wrap=True)


@app.command("plan")
def plan_command(
    config: ConfigFile,
    overrides: Overrides = None,
    workers: Annotated[str, typer.Option(help="Numbers of workers to plan, beside the configured one.")] = "1,2,4,8",
    memory: Annotated[float | None, typer.Option(help="GiB of the machine, or GPU; none: of this one.")] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Plan for workers with a GPU each: {', '.join(GPUS)}.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """graph/ → memory, operations and messages of a training that has not begun.

    The exit status is 1 where the configured training does not fit.
    """
    resolved = config_of_run(config, overrides or ())
    from .plan import plan

    try:
        numbers = [int(number) for number in workers.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise typer.BadParameter(f"--workers {workers}: give numbers from 1 on, as in 1,2,4")
    if memory is not None and not 0 < memory < math.inf:
        raise typer.BadParameter(f"--memory {memory}: give the GiB of a machine, as 64")
    if gpu is not None and (memory is not None or gpu.upper() not in GPUS):
        raise typer.BadParameter(f"--gpu {gpu}: give one of {', '.join(GPUS)}; or only --memory, the GiB of a GPU")
    plan(resolved, numbers, memory_gib=memory, gpu=gpu, as_json=as_json)


def _do(verb: str, config: Config, *, force: bool, take_over: bool) -> None:
    getattr(import_module(f".{verb}", __package__), verb)(config, force=force, take_over=take_over)


@app.command("prepare")
def prepare_command(
    config: ConfigFile, overrides: Overrides = None, force: Force = False, take_over: TakeOver = False
) -> None:
    """Facts → graph/: import, validate, number, anchor and bucket the facts."""
    resolved = config_of_run(config, overrides or ())
    from gam_kg.workflow.imports import import_if_missing
    from gam_kg.workflow.stage import owned

    with owned(resolved, "prepare", take_over=take_over):
        import_if_missing(resolved)
        _do("prepare", resolved, force=force, take_over=take_over)


def _add_stage(verb: str, description: str) -> None:
    def command(
        config: ConfigFile, overrides: Overrides = None, force: Force = False, take_over: TakeOver = False
    ) -> None:
        resolved = config_of_run(config, overrides or ())
        _do(verb, resolved, force=force, take_over=take_over)
        if verb == "evaluate":
            import_module(".report", __package__).show_metrics(resolved)

    app.command(verb, help=description)(command)


_add_stage("train", "graph/ → checkpoint/: train GAM_LSTM; an interrupted training continues.")
_add_stage("evaluate", "checkpoint/ → evaluation/: metrics and ranks, beside untrained baselines.")


@app.command("embed")
def embed_command(
    config: ConfigFile,
    overrides: Overrides = None,
    force: Force = False,
    take_over: TakeOver = False,
    at: Annotated[
        str | None, typer.Option(metavar="TIMESTAMP", help="After the facts of this timestamp, in place of embed.at.")
    ] = None,
) -> None:
    """checkpoint/ → embeddings/: a version of the vectors of all entities and relations, after the facts of embed.at.

    RUN/embeddings/latest names the newest version.
    """
    flags = [f"embed.at={json.dumps(at)}"] if at is not None else []
    _do("embed", config_of_run(config, [*(overrides or ()), *flags]), force=force, take_over=take_over)


@app.command("predict")
def predict_command(
    config: ConfigFile,
    overrides: Overrides = None,
    force: Force = False,
    take_over: TakeOver = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse queries of which one cannot be answered.")] = False,
    out: Annotated[str | None, typer.Option(help="Also write the predictions to this .parquet or .csv file.")] = None,
) -> None:
    """checkpoint/ → predictions/: the best answers to the queries of predict.queries."""
    flags = ["predict.strict=true"] * strict + ([f"predict.out={json.dumps(out)}"] if out is not None else [])
    _do("predict", config_of_run(config, [*(overrides or ()), *flags]), force=force, take_over=take_over)


_add_stage("report", "evaluation/ → report/: one self-contained page.")


app.command("search", cls=SearchCommand)(search_command)
_OTHERS = (
    *(explain_command, index_command, export_command, submit_command),
    *(compare_command, ensemble_command, ablate_command, tune_command),
)
for _command in _OTHERS:
    app.command(_command.__name__.removesuffix("_command"))(_command)
app.add_typer(job_app, name="job")


def main() -> None:
    """Entry point of `gam-kg` and `python -m pipelines`."""
    set_up_logging(full=not console.is_terminal)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    with exit_status(_refuse):
        app(prog_name="gam-kg")


def _refuse(message: str) -> None:
    if console.is_terminal:
        console.print(f"[red]error:[/red] {escape(printable(message))}", soft_wrap=True)
    else:
        logger.error("error: %s", message)
