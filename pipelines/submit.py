"""The same command as a job on a running Ray cluster, over the Jobs API of its dashboard.

What travels is one YAML, the resolved configuration, in the job's working directory; with `--working-dir` the files of
a folder travel beside it. The job's description is readable by whoever may read the dashboard: nothing of the
environment here goes into it, and the token stays in the headers of the requests.
"""

import asyncio
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import yaml
from rich.markup import escape

from gam_kg.config import Config
from gam_kg.errors import ConfigError
from pipelines.progress import console, results

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

Verb = Literal["run", "prepare", "train", "evaluate", "embed", "predict", "report"]

_CONFIG_FILE = "gam-kg-job.yaml"
_SECONDS_BETWEEN_TRIES = 3.0
_MAX_TRIES = 20
_TOKEN_ADVICE = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the cluster's token "
    "(`ray get-auth-token` prints it on the cluster)"
)


def submit(
    config: Config,
    address: str,
    *,
    verb: Verb = "run",
    force: bool = False,
    wait: bool = True,
    submission_id: str | None = None,
    working_dir: Path | None = None,
) -> int:
    """Submit `gam-kg VERB` with this configuration, and follow the job unless told not to wait.

    Args:
        config: The run's configuration; its paths are the cluster's.
        address: URL of the cluster's dashboard.
        verb: What the job does.
        force: The job redoes its stages.
        wait: Show the job's log until it ends. An interrupt ends the showing, not the job.
        submission_id: Name of the job; None: Ray makes one.
        working_dir: Folder that travels too, for instance a checkout of gam-kg that the cluster has not installed.

    Returns:
        Exit status: 0 the job succeeded or goes on unwatched, 1 it failed, 3 it was stopped, 130 interrupted here.

    Raises:
        ConfigError: A path is not for a cluster, no cluster answers, it refuses the token or the job, or the connection
            is lost for good.
    """
    require_shared_paths(config, verb)
    if working_dir is not None and not working_dir.is_dir():
        raise ConfigError(f"--working-dir {working_dir}: no such folder; give an existing one, or none")
    client = _connect(address)
    # Run in the working directory, -m finds a checkout there, and otherwise what the cluster has installed.
    command = ["python", "-m", "pipelines", verb, _CONFIG_FILE, *(["--force"] if force else [])]
    with _package(config, working_dir) as folder:
        submission_id = _send(client, shlex.join(command), folder, submission_id)
    if wait:
        _say(f"submitted {verb} of {config.name} as {submission_id} to {address}")
        return follow(client, submission_id, how_to_follow(address, submission_id))
    results.print(submission_id, soft_wrap=True, markup=False)
    _say(how_to_follow(address, submission_id))
    return 0


def require_shared_paths(config: Config, verb: Verb = "run") -> None:
    """Refuse paths that mean something else in a job.

    A job runs in a temporary folder of one machine: what a relative path names is not there, and what is written to it
    is lost with the folder.

    Args:
        config: The configuration to check.
        verb: What the job is to do.

    Raises:
        ConfigError: A path is relative, or not set where the job needs one.
    """
    if config.run_dir is None:
        raise ConfigError(
            f"run_dir is not set, and the job would write runs/{config.name} into its temporary folder, where it is "
            "lost; set run_dir=/PATH, an absolute path on storage that all machines of the cluster share"
        )
    data = config.data
    if data.facts is None and verb in ("run", "prepare"):
        raise ConfigError(f"data.facts is not set, and {verb} needs it; set data.facts=/PATH or a URI")
    named = data.import_from is not None and data.import_from.partition(":")[0] == "lahman"
    places = {"run_dir": config.run_dir, "data.import_from": None if named else data.import_from}
    places |= {"data.facts": data.facts, "predict.queries": config.predict.queries}
    for key, value in places.items():
        uri = key in ("data.facts", "predict.queries")
        if value is None or PurePosixPath(value).is_absolute() or (uri and "://" in value):
            continue
        raise ConfigError(
            f"{key}={value}: the job runs in a temporary folder on the cluster, where this path leads nowhere; set "
            f"an absolute path{' or a URI' if uri else ''} on storage that all machines of the cluster share"
        )


def how_to_follow(address: str, submission_id: str) -> str:
    """Commands for a job that goes on by itself."""
    arguments = f"--address {address} {shlex.quote(submission_id)}"
    return "\n".join(
        (
            f"log:    ray job logs --follow {arguments}",
            f"status: ray job status {arguments}",
            f"stop:   ray job stop {arguments}",
        )
    )


def _connect(address: str) -> "JobSubmissionClient":
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"--address {address}: expected the URL of the cluster's dashboard, http://HOST:8265")
    try:
        import aiohttp  # noqa: F401 - without it the SDK fails only when it is to show a log
        import requests
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ConfigError(f"gam-kg submit needs more of Ray ({error}); pip install 'gam-kg[cluster]'") from None
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)  # below it the SDK tells of every package and connection
    try:
        with _environment_without_addresses():
            return JobSubmissionClient(address)
    except RayError as error:
        raise ConfigError(f"{address}: {_first_line(error).partition('. ')[0]}; {_TOKEN_ADVICE}") from None
    except (requests.RequestException, ConnectionError, RuntimeError, LookupError) as error:
        raise ConfigError(
            f"{address}: no Ray cluster answers ({_first_line(error)}). Is it up, is this the address of its dashboard "
            "(http://HOST:8265), and does a way lead there, for instance an ssh tunnel or kubectl port-forward?"
        ) from None


@contextmanager
def _environment_without_addresses() -> Generator[None]:
    """Let the address that the user gave win: for Ray's SDK the environment wins over the argument."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


@contextmanager
def _package(config: Config, working_dir: Path | None) -> Generator[Path]:
    """A temporary folder with the configuration, and links to what travels beside it."""
    with tempfile.TemporaryDirectory(prefix="gam-kg-") as name:
        folder = Path(name)
        for entry in working_dir.iterdir() if working_dir else ():
            if entry.name != _CONFIG_FILE:
                (folder / entry.name).symlink_to(entry.absolute())
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        (folder / _CONFIG_FILE).write_text(text, encoding="utf-8")
        yield folder


def _send(client: "JobSubmissionClient", command: str, folder: Path, submission_id: str | None) -> str:
    import requests
    from ray.exceptions import RayError

    try:
        return client.submit_job(
            entrypoint=command, submission_id=submission_id, runtime_env={"working_dir": str(folder)}
        )
    except (RuntimeError, ValueError, requests.RequestException, RayError) as error:
        if submission_id is not None and "already exists" in str(error):
            raise ConfigError(
                f"--submission-id {submission_id}: the cluster has a job of this name; give another, or none"
            ) from None
        raise ConfigError(f"the cluster refuses the job: {_last_line(error)}") from None


def follow(client: "JobSubmissionClient", submission_id: str, advice: str) -> int:
    """Show a job's log until the job ends, and tell how it ended.

    Args:
        client: Connected to the job's cluster.
        submission_id: The job.
        advice: What to say of following the job where it is left to itself.

    Returns:
        Exit status, as `submit` gives it.

    Raises:
        ConfigError: The connection is lost for good.
    """
    try:
        details = asyncio.run(_show_log(client, submission_id, advice))
    except KeyboardInterrupt:
        _say(f"the job {submission_id} goes on\n{advice}")
        return 130
    if details.status == "SUCCEEDED":
        _say(f"job {submission_id} succeeded")
        return 0
    if details.status == "STOPPED":
        _say(f"job {submission_id} was stopped")
        return 3
    # Where the command itself failed, the log tells why, and Ray's message would only repeat the log.
    ended = f"its command ended with status {details.driver_exit_code}, the log above tells why"
    reason = details.message if details.driver_exit_code is None else ended
    console.print(f"[red]error:[/red] job {escape(submission_id)} failed: {escape(str(reason))}", soft_wrap=True)
    return 1


async def _show_log(client: "JobSubmissionClient", submission_id: str, advice: str) -> Any:
    """Show the log as it grows, over as many connections as it takes; the JobDetails once the job has ended."""
    import aiohttp

    shown = tries = 0
    while True:
        position, reason = 0, "the log ended before the job"
        try:
            async for text in client.tail_job_logs(submission_id):  # always from the start of the log
                sys.stdout.write(text[max(0, shown - position) :])
                sys.stdout.flush()
                tries = 0 if text else tries
                position += len(text)
                shown = max(shown, position)
            details: Any = client.get_job_info(submission_id)
            if details.status.is_terminal():
                return details
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            reason = _first_line(error)
        tries += 1
        if tries == _MAX_TRIES:
            raise ConfigError(f"lost the connection to job {submission_id}, which may go on ({reason})\n{advice}")
        await asyncio.sleep(_SECONDS_BETWEEN_TRIES)


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)


def _first_line(error: BaseException) -> str:
    return _lines(error)[0].rstrip(". ")


def _last_line(error: BaseException) -> str:
    """Where the server answers with a traceback, this is the error."""
    return _lines(error)[-1].rstrip(". ")


def _lines(error: BaseException) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
