"""The past, the model and the metrics are code for one device: they work where nothing is distributed."""

import os
import subprocess
import sys
from pathlib import Path


def test_history_and_model_work_on_one_device_without_what_is_distributed():
    here, tests = Path(__file__).parent, Path(__file__).parents[2]
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, here / "one_device.py"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert found.returncode == 0, found.stderr
