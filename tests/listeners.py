"""The TCP sockets on which a process, and all that it has started, listens; from /proc of Linux."""

import ipaddress
import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

LISTENING = "0A"  # a state in /proc/net/tcp


def listeners_of(process: subprocess.Popen, seconds: float) -> set[tuple[str, str]]:
    """(program, address:port) of every socket that was seen to listen until the process ended, within a time limit."""
    found, members, end = set(), set(), time.monotonic() + seconds
    while process.poll() is None:
        assert time.monotonic() < end, "it does not end"
        members |= tree(process.pid)  # also those that have lost their parent
        found |= listeners(*members)
        time.sleep(0.2)
    return found


def beyond_loopback(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those that another machine can reach."""
    return {one for one in found if not ipaddress.ip_address(one[1].rpartition(":")[0]).is_loopback}


def listeners(*pids: int) -> set[tuple[str, str]]:
    """(program, address:port) of the sockets on which processes listen, all in the network of this one."""
    addresses = dict(_listening())
    found = {(pid, addresses[inode]) for pid in pids for inode in _sockets(pid) & addresses.keys()}
    return {(name(pid), address) for pid, address in found}


def tree(root: int) -> set[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for process in _processes():
        with suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(process.name))
    found, waiting = set(), [root]
    while waiting:
        found.add(pid := waiting.pop())
        waiting += children.get(pid, [])
    return found


def alive(pids: set[int]) -> dict[int, str]:
    """Those that run, with what they run; a process that has ended has no name any more."""
    return {pid: program for pid in pids if (program := name(pid))}


def name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(Path(word).name for word in words[:3]).strip()


def _processes():
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _sockets(pid):
    found = set()
    with suppress(OSError):
        for file in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed since
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(file.path)):
                    found.add(match[1])
    return found


def _listening():
    """(inode, address:port) of all sockets that listen in the network of this process."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == LISTENING:
                    yield inode, _address(local)


def _address(text):
    """The address stands there as 32-bit words in the machine's order, all in hexadecimal."""
    address, port = text.split(":")
    words = bytes.fromhex(address)
    ip = ipaddress.ip_address(b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4)))
    return f"{getattr(ip, 'ipv4_mapped', None) or ip}:{int(port, 16)}"
