"""Which process of which machine wrote something, and whether that process is certain to have ended."""

import hashlib
import os
import re
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TAG = re.compile(r"(?P<host>[^/]+)\.(?P<machine>\w+)\.(?P<pid>\d{1,9})\.(?P<started>\d{1,18})")
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Process:
    """A process, which no other one equals.

    Attributes:
        host: Name of its machine.
        machine: Which start of which machine, and which of its containers; "unknown" where a system does not say.
        pid: Its number there.
        started: When it started, in clock ticks since the machine's start; numbers are used again, with other starts.
    """

    host: str
    machine: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> "Process":
        """The process that runs this code."""
        return _process(os.getpid())

    @property
    def tag(self) -> str:
        """A part of a file's name, which `of_tag` reads."""
        return f"{self.host}.{self.machine}.{self.pid}.{self.started}"

    @classmethod
    def of_tag(cls, tag: str) -> "Process | None":
        """The process of a tag; None if it is none."""
        found = _TAG.fullmatch(tag)
        return found and cls(found["host"], found["machine"], int(found["pid"]), int(found["started"]))

    def has_ended(self) -> bool | None:
        """Whether it has certainly ended; None where that cannot be known from here, as for another machine's."""
        here = Process.current()
        if self.machine == _UNKNOWN or (self.host, self.machine) != (here.host, here.machine):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
        found = _stat(self.pid)
        if found is None:  # it has just ended, or this user may not see it
            return None
        state, started = found
        return started != self.started or state in "ZX"


@cache
def _process(pid: int) -> Process:
    host = re.sub(r"[^\w.-]", "_", socket.gethostname())[:64] or _UNKNOWN
    found = _stat(pid)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        start = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return Process(host, _UNKNOWN, pid, 0)
    machine = hashlib.sha256(start.encode()).hexdigest()[:12] if found else _UNKNOWN
    return Process(host, machine, pid, found[1] if found else 0)


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start of a process of this machine; None where it cannot be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may have blanks and brackets
    return fields[0], int(fields[19])
