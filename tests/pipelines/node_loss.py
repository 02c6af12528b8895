"""Run as a script: train on a simulated cluster of two nodes, one of which is killed while a step runs.

Arguments: the configuration as JSON, the folder of the graph, a folder to work in. The last training checkpoint ends up
in the latter as `last`.
"""

import json
import os
import shutil
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

# As in `pipelines.ray_session`: before Ray is imported, so that every node is on loopback.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray.cluster_utils import Cluster

from gam_kg.config import Config
from pipelines.train import train_with_ray, training_log

KILLED_AFTER_STEP = 6


def main(config: Config, graph: Path, folder: Path) -> None:
    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False)
    assert len(ray.nodes()) == 2

    def kill() -> None:
        steps = config.run_path / "log" / "steps.jsonl"
        while not steps.exists() or len(steps.read_text().splitlines()) < KILLED_AFTER_STEP:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)

    threading.Thread(target=kill, daemon=True).start()
    try:
        with ExitStack() as stack:
            on_event = stack.enter_context(training_log(config, anew=True))
            last = train_with_ray(config, graph, folder / "training" / "key", stack, on_event)
            shutil.copytree(last, folder / "last")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Config.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
