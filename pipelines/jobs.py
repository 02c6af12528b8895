"""Jobs on a running Ray cluster, through Ray's job client: their state, their log and their end."""

import asyncio
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient
from rich.markup import escape

from gam_kg.errors import ConfigError, ConnectionLostError
from gam_kg.text import error_line, printable, quoted
from .progress import console, results
from .time_limit import within

JOB_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
REFUSED = (RuntimeError, ValueError, LookupError, OSError)
_SECONDS_TO_ANSWER = 15.0
_SECONDS_BETWEEN_TRIES = 3.0
# Of a log that says nothing for so long it is found out whether the cluster still answers.
_SECONDS_OF_SILENCE = 30.0
# Of a log that has not begun after so long it is found out whether the job waits.
_SECONDS_TO_BEGIN = 4.0
# A cluster that has not answered for so long is lost.
_SECONDS_TO_LOSE = 60.0
_SECONDS_TO_STOP = 60.0
Answer = TypeVar("Answer")


def show_status(address: str, submission_id: str) -> int:
    """Print a job's state, on standard output, in a line that begins with the state.

    Returns:
        Exit status: 0.

    Raises:
        ConfigError: No cluster answers, it refuses the token, or it has no such job.
    """
    job = _job(connect(address), submission_id)
    begun = (
        f" since {datetime.fromtimestamp(job.start_time / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC" if job.start_time else ""
    )
    about = [f"{key}={value}" for key, value in sorted((job.metadata or {}).items())]
    if job.status == "PENDING":
        about.append(_waiting(submission_id, job))
    elif job.status == "FAILED":
        about.append(_reason(job))
    results.print(printable(", ".join([f"{job.status}{begun}", *about])), soft_wrap=True, markup=False)
    return 0


def show_log(address: str, submission_id: str, *, to_its_end: bool) -> int:
    """Print a job's log so far, or show it until the job ends.

    Returns:
        Exit status: 0 for the log so far, or that of `follow`.

    Raises:
        ConfigError: No cluster answers, it refuses the token, or it has no such job.
        ConnectionLostError: The connection is lost for good.
    """
    client = connect(address)
    job = _job(client, submission_id)
    if to_its_end:
        return follow(client, submission_id, advice(address, submission_id))
    sys.stdout.write(_ask(submission_id, lambda: client.get_job_logs(submission_id)))
    sys.stdout.flush()
    if job.status == "PENDING":
        say(_waiting(submission_id, job))
    return 0


def stop(address: str, submission_id: str) -> int:
    """Stop a job and wait until it has ended; one that has ended already is left as it is.

    Returns:
        Exit status: 0.

    Raises:
        ConfigError: No cluster answers, it refuses the token, has no such job, or does not end it within a minute.
    """
    client = connect(address)
    if (job := _job(client, submission_id)).status.is_terminal():
        results.print(f"job {submission_id} had ended: {job.status}", soft_wrap=True, markup=False)
        return 0
    _ask(submission_id, lambda: client.stop_job(submission_id))
    end = time.monotonic() + _SECONDS_TO_STOP
    while not (job := _job(client, submission_id)).status.is_terminal():
        if time.monotonic() > end:
            later = "Ray stops it once its resources are there" if job.status == "PENDING" else "try again"
            raise ConfigError(f"job {submission_id} is still {job.status} after {_SECONDS_TO_STOP:.0f} s; {later}")
        time.sleep(min(1.0, _SECONDS_TO_STOP))
    ended = "was stopped" if job.status == "STOPPED" else f"had ended: {job.status}"
    results.print(f"job {submission_id} {ended}", soft_wrap=True, markup=False)
    return 0


def advice(address: str, submission_id: str) -> str:
    """The commands that show and end a job, a line each."""
    commands = {"log": "logs --follow", "status": "status", "stop": "stop"}
    arguments = f"{shlex.quote(submission_id)} --address {shlex.quote(address)}"
    return "\n".join(f"{name + ':':<7} gam-kg job {command} {arguments}" for name, command in commands.items())


def say(text: str) -> None:
    """Show a message about the work, on standard error."""
    console.print(text, soft_wrap=True, markup=False)


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at this URL.

    Raises:
        ConfigError: No cluster answers within seconds, or it refuses the token.
    """
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
    except REFUSED as error:
        raise ConfigError(
            f"{address}: no Ray cluster answers ({error_line(error)}). Is it up, is this the address of its dashboard "
            "(http://HOST:8265), and does a way lead there, for instance an ssh tunnel or kubectl port-forward?"
        ) from None
    finally:
        os.environ.update({name: value for name, value in hidden.items() if value is not None})


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
        say(f"the job {submission_id} goes on\n{advice}")
        return 130
    if details.status != "FAILED":
        succeeded = details.status == "SUCCEEDED"
        say(f"job {submission_id} {'succeeded' if succeeded else 'was stopped'}")
        return 0 if succeeded else 3
    console.print(f"[red]error:[/red] job {escape(submission_id)} failed: {escape(_reason(details))}", soft_wrap=True)
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
    seconds = min(_SECONDS_TO_BEGIN, _SECONDS_OF_SILENCE)
    while True:
        piece = asyncio.ensure_future(anext(log, None))
        try:
            while not (await asyncio.wait({piece}, timeout=seconds))[0]:
                job = await _details(client, submission_id)
                if job.status.is_terminal():
                    raise ConnectionError("the log does not end")
                if job.status == "PENDING":
                    say(_waiting(submission_id, job))
                seconds = _SECONDS_OF_SILENCE
        finally:
            piece.cancel()
            await asyncio.wait({piece})
        if (text := piece.result()) is None:
            return
        yield text


async def _details(client: JobSubmissionClient, submission_id: str) -> Any:
    """The job's JobDetails."""
    return await asyncio.to_thread(within, _SECONDS_TO_ANSWER, lambda: client.get_job_info(submission_id))


def _job(client: JobSubmissionClient, submission_id: str) -> Any:
    """The job's JobDetails."""
    if not JOB_NAME.fullmatch(submission_id):
        raise _no_job(submission_id)  # Ray's client would put it into a URL as it is
    return _ask(submission_id, lambda: client.get_job_info(submission_id))


def _ask(submission_id: str, call: Callable[[], Answer]) -> Answer:
    try:
        return within(_SECONDS_TO_ANSWER, call)
    except (*REFUSED, RayError) as error:
        if "does not exist" in str(error):
            raise _no_job(submission_id) from None
        raise ConfigError(f"job {submission_id}: the cluster does not answer ({error_line(error, -1)})") from None


def _no_job(submission_id: str) -> ConfigError:
    return ConfigError(
        f"the cluster has no job {quoted(submission_id)}; give the name that gam-kg submit printed, or one that the "
        "cluster's dashboard lists"
    )


def _waiting(submission_id: str, job: Any) -> str:
    return f"job {submission_id} is waiting for resources or for its files: {job.message}"


def _reason(job: Any) -> str:
    """Why a job failed; where the command itself did, that is in its log, which Ray's message would only repeat."""
    if job.driver_exit_code is None:
        return str(job.message)
    return f"its command ended with status {job.driver_exit_code}, see its log"
