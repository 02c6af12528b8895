"""Starts or joins Ray: the one at RAY_ADDRESS, the one already running in this process, or a local one on loopback.

The settings are for a fast start and little output; what is not shown is in Ray's own log files.
"""

import logging
import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import ray
import ray.data
from ray.data import DataContext
from ray.exceptions import RayError

from gam_kg.errors import GamKGError
from .ray_start import cluster_address, connect, local_ray

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
        ConfigError: RAY_ADDRESS is set, and no cluster answers there; or Ray does not start.
    """
    with ExitStack() as stack:
        if starts_here():
            stack.enter_context(local_ray(num_cpus, object_store_memory))
        elif not ray.is_initialized() and (address := cluster_address()):
            stack.callback(ray.shutdown)
            connect(address)
        with _data_settings(), _user_errors():
            yield


def starts_here() -> bool:
    """Whether `ray_session` would start a local Ray, and not use one that runs already."""
    return not ray.is_initialized() and cluster_address() is None


@contextmanager
def _data_settings() -> Generator[None]:
    """Settings of Ray Data for the block; those of the caller are put back."""
    context = DataContext.get_current().copy()
    context.shuffle_strategy = "sort_shuffle_pull_based"
    context.use_datasource_v2 = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    levels = {handler: handler.level for handler in logging.getLogger("ray.data").handlers if _is_rays(handler)}
    try:
        for handler in levels:
            handler.setLevel(logging.CRITICAL)
        with DataContext.current(context):
            yield
    finally:
        for handler, level in levels.items():
            handler.setLevel(level)


def _is_rays(handler: logging.Handler) -> bool:
    """Whether it is the one with which Ray writes to the console; handlers of the caller are left alone."""
    return isinstance(handler, logging.StreamHandler) and type(handler).__module__.startswith("ray.")


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
        # Ray Train has the errors of its workers by rank, and that of their start.
        for failure in (*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)):
            if (inner := _user_error(failure)) is not None:
                return inner
        error = getattr(error, "cause", None) or error.__cause__
    return None
