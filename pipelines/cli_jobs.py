"""The verbs of the command line for a running Ray cluster: submit, and job status, logs and stop."""

from typing import Annotated, Literal

import typer

from gam_kg.config import load_config
from gam_kg.text import user_path
from .cli_arguments import ConfigFile, Force, Overrides, TakeOver

Verb = Literal["run", "prepare", "train", "evaluate", "embed", "predict", "report"]
Address = Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard: http://HOST:8265.")]
JobName = Annotated[str, typer.Argument(metavar="ID", help="Name of the job, as submit prints it.")]

job_app = typer.Typer(
    help="Show or stop a job on a running Ray cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


def submit_command(
    config: ConfigFile,
    address: Address,
    overrides: Overrides = None,
    verb: Annotated[Verb, typer.Option(help="What the job does.")] = "run",
    force: Force = False,
    take_over: TakeOver = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show the job's log until it ends.")] = True,
    submission_id: Annotated[str | None, typer.Option(help="Name of the job; none: Ray makes one.")] = None,
    working_dir: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Folder that travels too, as a checkout of gam-kg; without what .gitignore names."
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Variable of the environment here that the job has too; may be repeated."),
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs that the command itself needs, on any machine.")] = 0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs that the command itself needs, on any machine.")] = 0,
    memory: Annotated[float, typer.Option(min=0, help="GiB that the command itself needs, on any machine.")] = 0,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What the dashboard shows with the job; may be repeated."),
    ] = None,
) -> None:
    """Do `gam-kg run` (or another --verb) as a job on a running Ray cluster.

    The exit status is the job's: 0 succeeded, 1 failed, 3 stopped. 4: the connection was lost, and the job may go on.
    Ctrl-C ends the log, and the job goes on. `gam-kg job` shows or stops it.

    The command is on the cluster's head, unless --cpus, --gpus or --memory say what it needs. Values of --env are never
    printed, but whoever may read the cluster's dashboard may read them.
    """
    resolved = load_config(config, overrides or ())
    from .submit import Request, submit

    request = Request(
        submission_id=submission_id,
        working_dir=user_path(working_dir, "--working-dir") if working_dir is not None else None,
        env=env or (),
        metadata=metadata or (),
        cpus=cpus,
        gpus=gpus,
        memory_gib=memory,
    )
    raise typer.Exit(
        submit(resolved, address, request, verb=verb, force=force, take_over=take_over, wait=wait),
    )


@job_app.command("status")
def status_command(job: JobName, address: Address) -> None:
    """Print the job's state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED, and what is known of it."""
    from .jobs import show_status

    raise typer.Exit(show_status(address, job))


@job_app.command("logs")
def logs_command(
    job: JobName,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job ends, with the status of submit.")] = False,
) -> None:
    """Print the job's log so far, or show it as it grows."""
    from .jobs import show_log

    raise typer.Exit(show_log(address, job, to_its_end=follow))


@job_app.command("stop")
def stop_command(job: JobName, address: Address) -> None:
    """Stop the job, and wait until it has ended."""
    from .jobs import stop

    raise typer.Exit(stop(address, job))
