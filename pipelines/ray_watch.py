"""Ends what a killed driver leaves of its local Ray: `python ray_watch.py DRIVER`, a child of the driver (Linux).

Ray's processes end with their driver except for two agents, which for a minute try to report the end to it.
"""

import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_SECONDS_TO_END = 5.0


def watch(driver: int) -> None:
    """Return when the driver has gone, and no process of its Ray is left.

    Args:
        driver: Process id of the parent of this process.
    """
    while os.getppid() == driver:
        time.sleep(1)
    time.sleep(_SECONDS_TO_END)
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid() and _writes_logs_of(process, driver):
            with suppress(OSError):  # gone since, or of another user
                os.kill(int(process.name), signal.SIGKILL)


def _writes_logs_of(process: Path, driver: int) -> bool:
    """Whether a process writes into the log folder of the Ray that a driver started: it is in the name."""
    logs = re.compile(rf"/session_[^/]+_{driver}/logs/")
    with suppress(OSError):
        for file in (process / "fd").iterdir():
            with suppress(OSError):  # closed since
                if logs.search(os.readlink(file)) and file.lstat().st_mode & 0o200:
                    return True
    return False


if __name__ == "__main__":
    watch(int(sys.argv[1]))
