"""Figures of a run as Prometheus metrics of Ray, which each Ray node exports at its metrics port."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import ray
from ray.util.metrics import Gauge

from .ray_session import ray_session, starts_here

MEANINGS = {
    "facts_per_second": "Facts a second of the last epoch",
    "loss": "Mean training loss of the running epoch so far",
    "validation_mrr": "Validation MRR after the last epoch, from 0 to 1",
    "mrr_of_the_day": "MRR of the newest facts, ranked before they were added, from 0 to 1",
    "update_lag_seconds": "Seconds from the end of the newest snapshot to the end of its update",
}


def record(run_name: str, **values: float) -> None:
    """Set the gauges of a run, gam_kg_NAME with the tag `run`; Prometheus has them as ray_gam_kg_NAME.

    Ray exports them every ten seconds and when the process ends. Where it has not joined a Ray, nothing is set.

    Args:
        run_name: Value of the tag.
        values: Gauges by name: facts_per_second, loss, validation_mrr, mrr_of_the_day, update_lag_seconds.

    Raises:
        KeyError: There is no gauge of a name.
    """
    gauges = {name: MEANINGS[name] for name in values}
    if ray.is_initialized():
        for name, meaning in gauges.items():
            _gauge(name, meaning).set(float(values[name]), tags={"run": run_name})


@contextmanager
def in_cluster() -> Generator[None]:
    """Join the cluster of RAY_ADDRESS for the block, so that it has the gauges set there; without a cluster do nothing.

    Raises:
        ConfigError: RAY_ADDRESS is set, and no cluster answers there.
    """
    if starts_here():
        yield
        return
    with ray_session():
        yield


@cache
def _gauge(name: str, meaning: str) -> Gauge:
    return Gauge(f"gam_kg_{name}", description=meaning, tag_keys=("run",))
