"""Starts or joins Ray: the one at RAY_ADDRESS, the one already running in this process, or a local one on loopback.

A local Ray has no dashboard, listens on loopback only and leaves token authentication as Ray sets it (on). Its settings
are for a fast start and little output; what is not shown is in Ray's own log files.
"""

import logging
import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.data
from ray._private import ray_constants
from ray.data import DataContext
from ray.exceptions import RayError

from gam_kg.errors import ConfigError, GamKGError

# Idle workers stay: by default Ray kills and respawns them between the steps of a shuffle, 13 s instead of 0.3 s.
_SYSTEM_CONFIG = {"num_workers_soft_limit": 8, "idle_worker_killing_time_threshold_ms": 600_000}

# Ray Data appends to the text of an error how often it was tried; to try again mends none of ours.
_RETRY_ADVICE = re.compile(r"\nFailed to .* after \d+/\d+ attempts.*", re.DOTALL)


@contextmanager
def ray_session(*, num_cpus: int | None = None, object_store_memory: int | None = None) -> Generator[None]:
    """Run the block with Ray, and stop Ray afterwards if it was started here.

    A `GamKGError` that a task raises, or a generator given to `map_batches`, leaves the block as itself. Of one that a
    plain function given to `map_batches` raises, Ray Data passes on the text alone.

    Args:
        num_cpus: CPUs of a local Ray; None: all of the machine. Ignored where Ray runs already.
        object_store_memory: Bytes of a local Ray's object store; None: Ray's choice. Ignored where Ray runs already.

    Raises:
        ConfigError: RAY_ADDRESS is set, and no cluster answers there.
    """
    started = not ray.is_initialized()
    if started:
        _start(num_cpus, object_store_memory)
    try:
        with _data_settings(), _user_errors():
            yield
    finally:
        if started:
            ray.shutdown()


def starts_here() -> bool:
    """Whether `ray_session` would start a local Ray, and not use one that runs already."""
    return not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")


def _start(num_cpus: int | None, object_store_memory: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(**quiet)
        except ConnectionError as error:
            raise ConfigError(
                f"RAY_ADDRESS={address}: {error}. Is the cluster up? Where it needs a token, set RAY_AUTH_MODE=token "
                "and RAY_AUTH_TOKEN_PATH; unset RAY_ADDRESS to work on this machine"
            ) from None
        return
    with _on_loopback():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=object_store_memory,
            include_dashboard=False,
            _system_config=_SYSTEM_CONFIG,
            **quiet,
        )


@contextmanager
def _on_loopback() -> Generator[None]:
    """Let every process of a Ray started in the block bind to loopback.

    On Linux Ray replaces 127.0.0.1 by the machine's address, unless multi-node clusters are switched off as they are on
    macOS and Windows. The switch is read when Ray is imported.
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, environment = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if environment is None:
            del os.environ[name]
        else:
            os.environ[name] = environment


@contextmanager
def _data_settings() -> Generator[None]:
    """Settings of Ray Data for the block; those of the caller are put back."""
    context = DataContext.get_current().copy()
    context.shuffle_strategy = "sort_shuffle_pull_based"
    context.use_datasource_v2 = False
    context.enable_progress_bars = sys.stderr.isatty()
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    levels = {handler: handler.level for handler in logging.getLogger("ray.data").handlers if _is_console(handler)}
    try:
        for handler in levels:
            handler.setLevel(logging.CRITICAL)
        with DataContext.current(context):
            yield
    finally:
        for handler, level in levels.items():
            handler.setLevel(level)


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


@contextmanager
def _user_errors() -> Generator[None]:
    try:
        yield
    except Exception as error:
        inner = _user_error(error)
        if inner is None or (isinstance(error, GamKGError) and not isinstance(error, RayError)):
            raise
        raise inner from None


def _user_error(error: BaseException | None) -> GamKGError | None:
    """The error for the user inside an error of Ray, however deep."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        # Ray's wrapper of a task's error is also an instance of that error's class, with a traceback as its text.
        if isinstance(error, GamKGError) and not isinstance(error, RayError):
            return type(error)(_RETRY_ADVICE.sub("", str(error)))
        seen.add(id(error))
        # Ray Train has the errors of its workers by rank.
        for failure in getattr(error, "worker_failures", {}).values():
            if (inner := _user_error(failure)) is not None:
                return inner
        error = getattr(error, "cause", None) or error.__cause__
    return None
