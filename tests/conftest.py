"""Shared by all tests: one local Ray for each process of tests, and reproducible property tests."""

import logging
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from object_store import bucket, object_store  # noqa: F401 - fixtures
from ranks import RankPool

from pipelines.ray_session import ray_session

# Commands and Ray workers that tests start find `pipelines` as the tests do, from any folder.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))

# Tensors this small only wait for a second thread, here and in what tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Shared machines stall for longer than hypothesis' default deadline of 200 ms.
settings.register_profile("gam_kg", deadline=None, derandomize=True)
settings.load_profile("gam_kg")


@pytest.fixture(autouse=True)
def _logging():
    """What a test, or a command that it calls, changes of logging ends with it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logging.getLogger("gam_kg").setLevel(logging.WARNING)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def local_ray():
    with ray_session(num_cpus=2, object_store_memory=250 * 2**20):
        yield


@pytest.fixture(scope="session")
def rank_pool():
    pool = RankPool()
    yield pool
    pool.close()
