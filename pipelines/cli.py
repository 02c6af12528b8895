"""The command line: one verb a stage, `run` for all of them.

Errors for the user are printed without a traceback and end with status 1; wrong usage ends with status 2.
"""

import inspect
import logging
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from gam_kg.config import Config, load_config
from gam_kg.config_file import validated
from gam_kg.errors import GamKGError
from gam_kg.synthetic.groups import SyntheticConfig
from pipelines.progress import console, results

app = typer.Typer(
    help="Temporal knowledge-graph embeddings on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Verb = Literal["run", "prepare", "train", "evaluate", "embed", "predict", "report"]
ConfigFile = Annotated[Path, typer.Argument(help="YAML file of the run.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="a.b=value, over those of the file.")]
Force = Annotated[bool, typer.Option("--force", help="Redo the stage even if its artifact is up to date.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
At = Annotated[str | None, typer.Option(help="After the facts of this timestamp; none: after the last fact.")]


@app.command("run")
def run_command(config: ConfigFile, overrides: Overrides = None, force: Force = False) -> None:
    """Do all stages: import, prepare, train, embed, evaluate, predict, report."""
    from pipelines.run import run

    run_path = run(load_config(config, overrides or ()), force=force)
    results.print(f"finished: {run_path}", soft_wrap=True)


@app.command("import")
def import_command(
    source: Annotated[str, typer.Argument(help="Folder with train.txt, a CSV/TSV file, or 'lahman[:YEAR]'.")],
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    columns: Annotated[
        list[str] | None, typer.Argument(help="column=name where a table's header differs, as in subject=head.")
    ] = None,
) -> None:
    """Turn the field's folder format, CSV/TSV or the lahman package into a Parquet of facts."""
    from gam_kg.importers.dispatch import import_facts

    names = load_config(None, [f"data.columns.{column}" for column in columns or ()]).data.columns
    for line in import_facts(source, out, names).lines():
        results.print(line, soft_wrap=True)


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
    out: Annotated[Path, typer.Argument(help="Folder to write; `prepare` reads it as data.facts=OUT.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a graph generated there before.")] = False,
    **settings: Any,
) -> None:
    """Write a synthetic graph of any size whose best-possible MRR is known. Shares are relative to their sum."""
    config = validated(SyntheticConfig, settings, "generate")
    from pipelines.generate import generate, summary_lines

    for line in summary_lines(out, generate(out, config, force=force)):
        results.print(line, soft_wrap=True)


@app.command("prepare")
def prepare_command(config: ConfigFile, overrides: Overrides = None, force: Force = False) -> None:
    """Facts → graph/: validate, number, anchor and bucket the facts."""
    from pipelines.prepare import prepare
    from pipelines.run import import_if_missing

    resolved = _resolved(config, overrides)
    import_if_missing(resolved)
    prepare(resolved, force=force)


@app.command("plan")
def plan_command(
    config: ConfigFile,
    overrides: Overrides = None,
    workers: Annotated[str, typer.Option(help="Numbers of workers to plan, beside the configured one.")] = "1,2,4,8",
    memory: Annotated[float | None, typer.Option(help="GiB of the machine, or GPU; none: of this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """graph/ → memory, operations and messages of a training that has not begun.

    The exit status is 1 where the configured training does not fit.
    """
    resolved = load_config(config, overrides or ())
    from pipelines.plan import plan

    try:
        numbers = [int(number) for number in workers.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise typer.BadParameter(f"--workers {workers}: give numbers from 1 on, as in 1,2,4")
    plan(resolved, numbers, memory_gib=memory, as_json=as_json)


def _add_stage(verb: str, description: str) -> None:
    def command(config: ConfigFile, overrides: Overrides = None, force: Force = False) -> None:
        resolved = _resolved(config, overrides)
        getattr(import_module(f"pipelines.{verb}"), verb)(resolved, force=force)
        if verb == "evaluate":
            import_module("pipelines.report").show_metrics(resolved)

    app.command(verb, help=description)(command)


_add_stage("train", "graph/ → checkpoint/: train GAM_LSTM; an interrupted training continues.")
_add_stage("evaluate", "checkpoint/ → evaluation/: metrics and ranks, beside untrained baselines.")
_add_stage("embed", "checkpoint/ → embeddings/: vectors of all entities and relations as of embed.at.")
_add_stage("predict", "checkpoint/ → predictions/: the best answers to the queries of predict.queries.")
_add_stage("report", "evaluation/ → report/: a page with tables and a picture.")


@app.command("submit")
def submit_command(
    config: ConfigFile,
    address: Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard: http://HOST:8265.")],
    overrides: Overrides = None,
    verb: Annotated[Verb, typer.Option(help="What the job does.")] = "run",
    force: Force = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show the job's log until it ends.")] = True,
    submission_id: Annotated[str | None, typer.Option(help="Name of the job; none: Ray makes one.")] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(help="Folder that travels too, as a checkout of gam-kg; without what .gitignore names."),
    ] = None,
) -> None:
    """Do `gam-kg run` (or another --verb) as a job on a running Ray cluster.

    The exit status is the job's: 0 succeeded, 1 failed, 3 stopped. Ctrl-C ends the log, and the job goes on.
    """
    resolved = load_config(config, overrides or ())
    from pipelines.submit import submit

    options = {"verb": verb, "force": force, "wait": wait, "submission_id": submission_id, "working_dir": working_dir}
    raise typer.Exit(submit(resolved, address, **options))


@app.command("search")
def search_command(
    run: RunFolder,
    like: Annotated[str | None, typer.Option(help="Entity whose nearest entities to find.")] = None,
    query: Annotated[tuple[str, str] | None, typer.Option(help="SUBJECT RELATION to answer.")] = None,
    at: At = None,
    top_k: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 10,
) -> None:
    """Nearest entities (--like NAME) or answers (--query SUBJECT RELATION), exact, as a table."""
    from pipelines.search import search_answers, search_like

    if (like is None) == (query is None):
        raise typer.BadParameter("give either --like NAME or --query SUBJECT RELATION")
    if like is not None:
        search_like(run, like, at, top_k)
    elif query is not None:
        search_answers(run, *query, at, top_k)


def _resolved(path: Path, overrides: list[str] | None) -> Config:
    """The configuration, which is also written beside the artifacts of its run."""
    config = load_config(path, overrides or ())  # before the slow imports: a mistake is reported at once
    from pipelines.stages import write_config

    write_config(config)
    return config


def main() -> None:
    """Entry point of `gam-kg` and `python -m pipelines`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("gam_kg").setLevel(logging.INFO)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        app()
    except GamKGError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
