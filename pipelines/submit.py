"""The same command as a job on a running Ray cluster, through Ray's job client.

The resolved configuration travels as one YAML in the job's working directory, beside the files of `--working-dir`.
Whoever may read the dashboard may read the job's description: nothing of the environment here goes into it, and the
token stays in the headers of the requests.
"""

import asyncio
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient
from rich.markup import escape

from gam_kg.config import Config
from gam_kg.errors import ConfigError, ConnectionLostError
from gam_kg.text import error_line, is_uri
from pipelines.progress import console, results
from pipelines.time_limit import within

_CONFIG_FILE = "gam-kg-job.yaml"
_SECONDS_TO_ANSWER = 15.0
_SECONDS_BETWEEN_TRIES = 3.0
# Of a log that says nothing for so long it is found out whether the cluster still answers.
_SECONDS_OF_SILENCE = 30.0
# A cluster that has not answered for so long is lost.
_SECONDS_TO_LOSE = 60.0
_REFUSED = (RuntimeError, ValueError, LookupError, OSError)


def submit(
    config: Config,
    address: str,
    *,
    verb: str = "run",
    force: bool = False,
    take_over: bool = False,
    wait: bool = True,
    submission_id: str | None = None,
    working_dir: Path | None = None,
) -> int:
    """Submit `gam-kg VERB` with this configuration, and show the job's log until it ends.

    Args:
        config: The run's configuration; its paths are the cluster's.
        address: URL of the cluster's dashboard.
        verb: What the job does.
        force: The job redoes its stages.
        take_over: The job goes on in a run folder whose owner, on another machine, shows no sign of life.
        wait: Show the log. An interrupt ends that, not the job.
        submission_id: Name of the job; None: Ray makes one.
        working_dir: Folder that travels too, for instance a checkout of gam-kg that the cluster has not installed.

    Returns:
        Exit status: 0 the job succeeded or goes on unwatched, 1 it failed, 3 it was stopped, 130 interrupted here.

    Raises:
        ConfigError: A path is not for a cluster, no cluster answers within seconds, or it refuses the token or the job.
        ConnectionLostError: The connection to the submitted job is lost for good; as exit status, 4.
    """
    require_shared_paths(config, verb)
    if working_dir is not None and not working_dir.is_dir():
        raise ConfigError(f"--working-dir {working_dir}: no such folder; give an existing one, or none")
    client = _connect(address)
    # Run in the working directory, -m finds a checkout there, and otherwise what the cluster has installed.
    flags = " --force" * force + " --take-over" * take_over
    command = f"python -m pipelines {verb} {_CONFIG_FILE}{flags}"
    submission_id = _send(client, command, config, submission_id, working_dir)
    arguments = f"--address {address} {shlex.quote(submission_id)}"
    commands = {"log": "logs --follow", "status": "status", "stop": "stop"}
    advice = "\n".join(f"{name + ':':<7} ray job {command} {arguments}" for name, command in commands.items())
    if wait:
        _print(f"submitted {verb} of {config.name} as {submission_id} to {address}")
        return follow(client, submission_id, advice)
    results.print(submission_id, soft_wrap=True, markup=False)
    _print(advice)
    return 0


def require_shared_paths(config: Config, verb: str = "run") -> None:
    """Refuse paths that have another meaning in a job, which runs in a temporary folder of one machine.

    Args:
        config: The configuration to check.
        verb: What the job is to do.

    Raises:
        ConfigError: A path is relative, or not set where the job needs one.
    """
    data = config.data
    if config.run_dir is None:
        raise ConfigError(
            f"run_dir is not set, and the job would write runs/{config.name} into its temporary folder, where it is "
            "lost; set run_dir=/PATH, an absolute path on storage that all machines of the cluster share"
        )
    if data.facts is None and verb in ("run", "prepare"):
        raise ConfigError(f"data.facts is not set, and {verb} needs it; set data.facts=/PATH or a URI")
    uris = {
        "data.facts": data.facts,
        "data.entity_features": data.entity_features,
        "predict.queries": config.predict.queries,
    }
    paths: dict[str, str | None] = {"run_dir": config.run_dir, **uris, "predict.out": config.predict.out}
    if data.import_from is not None and data.import_from.partition(":")[0] != "lahman":
        paths["data.import_from"] = data.import_from
    for key, value in paths.items():
        if value is None or PurePosixPath(value).is_absolute() or (key in uris and is_uri(value)):
            continue
        raise ConfigError(
            f"{key}={value}: the job runs in a temporary folder on the cluster, where this path leads nowhere; set "
            f"an absolute path{' or a URI' if key in uris else ''} on storage that all machines of the cluster share"
        )


def _connect(address: str) -> JobSubmissionClient:
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"--address {address}: expected the URL of the cluster's dashboard, http://HOST:8265")
    try:
        import aiohttp  # noqa: F401 - without it the client fails only when it is to show a log
    except ImportError as error:
        raise ConfigError(f"gam-kg submit needs more of Ray ({error}); pip install 'gam-kg[cluster]'") from None
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)  # below it the client logs every package and connection
    # For the client these win over the argument.
    hidden = {name: os.environ.pop(name, None) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
    try:
        return within(_SECONDS_TO_ANSWER, lambda: JobSubmissionClient(address))
    except RayError as error:
        raise ConfigError(
            f"{address}: {error_line(error).partition('. ')[0]}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a "
            "file with the cluster's token (`ray get-auth-token` prints it on the cluster)"
        ) from None
    except _REFUSED as error:
        raise ConfigError(
            f"{address}: no Ray cluster answers ({error_line(error)}). Is it up, is this the address of its dashboard "
            "(http://HOST:8265), and does a way lead there, for instance an ssh tunnel or kubectl port-forward?"
        ) from None
    finally:
        os.environ.update({name: value for name, value in hidden.items() if value is not None})


def _send(
    client: JobSubmissionClient, command: str, config: Config, submission_id: str | None, working_dir: Path | None
) -> str:
    with tempfile.TemporaryDirectory(prefix="gam-kg-") as name:
        folder = Path(name)
        for entry in working_dir.iterdir() if working_dir else ():
            if entry.name != _CONFIG_FILE:
                (folder / entry.name).symlink_to(entry.absolute())
        (folder / _CONFIG_FILE).write_text(config.to_yaml(), encoding="utf-8")
        try:
            return client.submit_job(
                entrypoint=command, submission_id=submission_id, runtime_env={"working_dir": str(folder)}
            )
        except (*_REFUSED, RayError) as error:
            if submission_id is not None and "already exists" in str(error):
                raise ConfigError(
                    f"--submission-id {submission_id}: the cluster has a job of this name; give another, or none"
                ) from None
            # Where the server answers with a traceback, the last line is the error.
            raise ConfigError(f"the cluster refuses the job: {error_line(error, -1)}") from None


def follow(client: JobSubmissionClient, submission_id: str, advice: str) -> int:
    """Show a job's log until the job ends, and how it ended.

    Args:
        client: Connected to the job's cluster.
        submission_id: The job.
        advice: What to print where the job goes on and its log is no longer shown.

    Returns:
        Exit status, as that of `submit`.

    Raises:
        ConnectionLostError: The connection is lost for good.
    """
    try:
        details = asyncio.run(_show_log(client, submission_id, advice))
    except KeyboardInterrupt:
        _print(f"the job {submission_id} goes on\n{advice}")
        return 130
    if details.status != "FAILED":
        succeeded = details.status == "SUCCEEDED"
        _print(f"job {submission_id} {'succeeded' if succeeded else 'was stopped'}")
        return 0 if succeeded else 3
    # Where the command itself failed, the reason is in the log, which Ray's message would only repeat.
    ended = f"its command ended with status {details.driver_exit_code}, see the log above"
    reason = details.message if details.driver_exit_code is None else ended
    console.print(f"[red]error:[/red] job {escape(submission_id)} failed: {escape(str(reason))}", soft_wrap=True)
    return 1


async def _show_log(client: JobSubmissionClient, submission_id: str, advice: str) -> Any:
    """Show the log as it grows, over as many connections as it takes; returns the JobDetails of the ended job."""
    import aiohttp

    shown, lost_at = 0, None
    while True:
        position, reason = 0, "the log ended before the job"
        try:
            async with aclosing(_pieces(client, submission_id)) as pieces:
                async for text in pieces:
                    sys.stdout.write(text[max(0, shown - position) :])
                    sys.stdout.flush()
                    position += len(text)
                    shown = max(shown, position)
                    lost_at = None if text else lost_at
            details = await _details(client, submission_id)
            if details.status.is_terminal():
                return details
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            reason = error_line(error)
        lost_at = lost_at or time.monotonic()
        if time.monotonic() - lost_at > _SECONDS_TO_LOSE:
            raise ConnectionLostError(
                f"lost the connection to job {submission_id}, which may go on ({reason})\n{advice}"
            )
        await asyncio.sleep(_SECONDS_BETWEEN_TRIES)


async def _pieces(client: JobSubmissionClient, submission_id: str) -> AsyncGenerator[str]:
    """The log from its start, as it grows.

    Raises:
        OSError: The log says nothing, and the cluster does not answer or the job has ended.
    """
    log = client.tail_job_logs(submission_id)
    while True:
        piece = asyncio.ensure_future(anext(log, None))
        try:
            while not (await asyncio.wait({piece}, timeout=_SECONDS_OF_SILENCE))[0]:
                if (await _details(client, submission_id)).status.is_terminal():
                    raise ConnectionError("the log does not end")
        finally:
            piece.cancel()
            await asyncio.wait({piece})
        if (text := piece.result()) is None:
            return
        yield text


async def _details(client: JobSubmissionClient, submission_id: str) -> Any:
    """The job's JobDetails."""
    return await asyncio.to_thread(within, _SECONDS_TO_ANSWER, lambda: client.get_job_info(submission_id))


def _print(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
