"""The same command as a job on a running Ray cluster, through Ray's job client.

The resolved configuration travels as one YAML in the job's working directory, beside the files of `--working-dir`.
Whoever may read the dashboard may read the job's description: of the environment here only the variables named by
`--env` go into it, and the token stays in the headers of the requests.
"""

import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

from gam_kg.config import Config
from gam_kg.errors import ConfigError
from gam_kg.text import error_line, is_uri, quoted
from .jobs import JOB_NAME, REFUSED, advice, connect, follow, say
from .progress import results
from .time_limit import within

_CONFIG_FILE = "gam-kg-job.yaml"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GIB = 2**30
_SECONDS_TO_SEND = 900.0  # a folder that travels may have hundreds of megabytes


@dataclass(frozen=True)
class Request:
    """What a job needs of the cluster.

    Attributes:
        submission_id: Name of the job; None: Ray makes one.
        working_dir: Folder that travels too, for instance a checkout of gam-kg that the cluster has not installed.
        env: Names of variables of the environment here that the job has too.
        metadata: KEY=VALUE texts that the dashboard shows with the job.
        cpus, gpus, memory_gib: What the command itself needs of one machine, apart from the tasks and workers that it
            starts. With any of them above zero the command may be on any machine, otherwise it is on the head.
    """

    submission_id: str | None = None
    working_dir: Path | None = None
    env: Sequence[str] = ()
    metadata: Sequence[str] = ()
    cpus: float = 0
    gpus: float = 0
    memory_gib: float = 0

    def environment(self) -> dict[str, str]:
        """The variables and their values, which no message shows.

        Raises:
            ConfigError: A name is none of a variable, or the variable is not set.
        """
        for name in self.env:
            if not _VARIABLE.fullmatch(name):
                raise ConfigError(
                    f"--env {name.partition('=')[0]}: give a variable's name alone; its value is read here"
                )
            if name not in os.environ:
                raise ConfigError(f"--env {name}: the variable is not set here; export it, or leave the flag out")
        return {name: os.environ[name] for name in self.env}

    def labels(self) -> dict[str, str]:
        """The metadata by key.

        Raises:
            ConfigError: One is not KEY=VALUE.
        """
        pairs = [one.partition("=") for one in self.metadata]
        for key, equals, value in pairs:
            if not (key and equals):
                raise ConfigError(f"--metadata {key}{equals}{value}: expected KEY=VALUE, as in --metadata team=search")
        return {key: value for key, _, value in pairs}

    def check(self) -> None:
        """Refuse what no cluster can do.

        Raises:
            ConfigError: The flag, what it has and what it takes.
        """
        for flag, value in (("--cpus", self.cpus), ("--gpus", self.gpus), ("--memory", self.memory_gib)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"{flag} {value}: give a number from 0 on")
        if self.submission_id is not None and not JOB_NAME.fullmatch(self.submission_id):
            name = quoted(self.submission_id)
            raise ConfigError(f"--submission-id {name}: give letters, digits, _, . and -, as in daily-2026-01-31")
        if self.working_dir is not None and not self.working_dir.is_dir():
            raise ConfigError(f"--working-dir {self.working_dir}: no such folder; give an existing one, or none")


def submit(
    config: Config,
    address: str,
    request: Request | None = None,
    *,
    verb: str = "run",
    force: bool = False,
    take_over: bool = False,
    wait: bool = True,
) -> int:
    """Submit `gam-kg VERB` with this configuration, and show the job's log until it ends.

    Args:
        config: The run's configuration; its paths are the cluster's.
        address: URL of the cluster's dashboard.
        request: What the job needs of the cluster; None: nothing in particular.
        verb: What the job does.
        force: The job redoes its stages.
        take_over: The job goes on in a run folder whose owner, on another machine, shows no sign of life.
        wait: Show the log. An interrupt ends that, not the job.

    Returns:
        Exit status: 0 the job succeeded or goes on unwatched, 1 it failed, 3 it was stopped, 130 interrupted here.

    Raises:
        ConfigError: A path is not for a cluster, a variable is not set, no cluster answers within seconds, or it
            refuses the token or the job.
        ConnectionLostError: The connection to the submitted job is lost for good; as exit status, 4.
    """
    request = request or Request()
    require_shared_paths(config, verb)
    request.check()
    request.environment(), request.labels()
    client = connect(address)
    # Run in the working directory, -m finds a checkout there; what the cluster has installed has another name.
    folder = request.working_dir
    checkout = folder is not None and (folder / "pipelines" / "__main__.py").is_file()
    flags = " --force" * force + " --take-over" * take_over
    command = f"python -m {'pipelines' if checkout else 'gam_kg_pipelines'} {verb} {_CONFIG_FILE}{flags}"
    submission_id = _send(client, command, config, request)
    if wait:
        say(f"submitted {verb} of {config.name} as {submission_id} to {address}")
        return follow(client, submission_id, advice(address, submission_id))
    results.print(submission_id, soft_wrap=True, markup=False)
    say(advice(address, submission_id))
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
            "lost; set run_dir to a URI, or to an absolute path on storage that all machines of the cluster share"
        )
    if data.facts is None and verb in ("run", "prepare"):
        raise ConfigError(f"data.facts is not set, and {verb} needs it; set data.facts=/PATH or a URI")
    uris = {
        "run_dir": config.run_dir,
        "data.facts": data.facts,
        "data.entity_features": data.entity_features,
        "predict.queries": config.predict.queries,
    }
    paths: dict[str, str | None] = {**uris, "predict.out": config.predict.out}
    if data.import_from is not None and data.import_from.partition(":")[0] != "lahman":
        paths["data.import_from"] = data.import_from
    for key, value in paths.items():
        if value is None or PurePosixPath(value).is_absolute() or (key in uris and is_uri(value)):
            continue
        raise ConfigError(
            f"{key}={value}: the job runs in a temporary folder on the cluster, where this path leads nowhere; set "
            f"an absolute path{' or a URI' if key in uris else ''} on storage that all machines of the cluster share"
        )


def _send(client: JobSubmissionClient, command: str, config: Config, request: Request) -> str:
    with tempfile.TemporaryDirectory(prefix="gam-kg-") as name:
        folder = Path(name)
        for entry in request.working_dir.iterdir() if request.working_dir else ():
            if entry.name != _CONFIG_FILE:
                (folder / entry.name).symlink_to(entry.absolute())
        (folder / _CONFIG_FILE).write_text(config.to_yaml(), encoding="utf-8")
        try:
            return within(
                _SECONDS_TO_SEND,
                lambda: client.submit_job(
                    entrypoint=command,
                    submission_id=request.submission_id,
                    runtime_env={"working_dir": str(folder), "env_vars": request.environment()},
                    metadata=request.labels(),
                    entrypoint_num_cpus=request.cpus or None,
                    entrypoint_num_gpus=request.gpus or None,
                    entrypoint_memory=int(request.memory_gib * _GIB) or None,
                ),
            )
        except (*REFUSED, RayError) as error:
            if request.submission_id is not None and "already exists" in str(error):
                name = f"--submission-id {request.submission_id}"
                raise ConfigError(f"{name}: the cluster has a job of this name; give another, or none") from None
            # Where the server answers with a traceback, the last line is the error.
            raise ConfigError(f"the cluster refuses the job: {error_line(error, -1)}") from None
