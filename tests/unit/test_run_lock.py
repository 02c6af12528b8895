"""One writer a run folder: between real processes, and between machines as the lock file tells of them."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gam_kg import run_lock as module
from gam_kg.errors import OutputError, RunInUseError
from gam_kg.output import replacing
from gam_kg.processes import Process
from gam_kg.run_lock import LOCK, STALE_SECONDS, run_lock

ELSEWHERE = Process("node-7", "0123456789ab", 4711, 99)
OWNER = """
import sys, time
from pathlib import Path
from gam_kg.run_lock import run_lock
with run_lock(Path(sys.argv[1]), "train"):
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
"""
TAKER = """
import sys
from pathlib import Path
from gam_kg.errors import RunInUseError
from gam_kg.run_lock import run_lock
sys.stdin.readline()
try:
    with run_lock(Path(sys.argv[1]), "train", take_over=True):
        print("in", flush=True)
        sys.stdin.readline()
except RunInUseError:
    print("refused", flush=True)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def end(process):
    process.kill()
    process.communicate()


@pytest.fixture
def owner(tmp_path):
    """Another process that owns the folder."""
    process = start(OWNER, tmp_path, 60)
    assert process.stdout.readline() == "in\n"
    yield process
    end(process)


def lock_of(process, folder, silent=0.0):
    """A lock file as a process has left it, some seconds ago."""
    values = {**asdict(process), "user": "ada", "verb": "train", "since": "2026-01-02T03:04:05+00:00", "token": "x"}
    (folder / LOCK).write_text(json.dumps(values))
    changed = time.time() - silent
    os.utime(folder / LOCK, (changed, changed))


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_lock_is_there_while_the_block_runs_and_gone_after_it(tmp_path):
    folder = tmp_path / "new" / "run"
    for stop in (None, RuntimeError, KeyboardInterrupt):
        try:
            with run_lock(folder, "train"):
                values = json.loads((folder / LOCK).read_text())
                assert (values["pid"], values["host"]) == (os.getpid(), Process.current().host)
                if stop:
                    raise stop
        except (RuntimeError, KeyboardInterrupt):
            pass
        assert files_of(folder) == []


def test_a_process_may_enter_again_in_any_thread(tmp_path):
    entered = []

    def enter():
        with run_lock(tmp_path, "embed"):
            entered.append(True)

    with run_lock(tmp_path, "run"), run_lock(tmp_path / ".." / tmp_path.name, "train"):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert (tmp_path / LOCK).exists()
    assert entered
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("take_over", [False, True])
def test_a_second_process_is_refused_and_the_first_one_named(tmp_path, owner, take_over):
    with pytest.raises(RunInUseError, match="in use") as found, run_lock(tmp_path, "train", take_over=take_over):
        pytest.fail("two are in")
    for part in (f"process {owner.pid} ", Process.current().host, "gam-kg train", "since 20", "run_dir"):
        assert part in str(found.value)
    assert "--force" not in str(found.value)
    assert "--take-over" not in str(found.value)
    assert files_of(tmp_path) == [LOCK]


def test_a_stopped_process_is_still_the_owner(tmp_path, owner):
    owner.send_signal(signal.SIGSTOP)
    long_ago = time.time() - 10 * STALE_SECONDS
    os.utime(tmp_path / LOCK, (long_ago, long_ago))
    with pytest.raises(RunInUseError), run_lock(tmp_path, "train", take_over=True):
        pytest.fail("two are in")


def test_after_a_kill_the_same_command_goes_on_and_says_so(tmp_path, owner, caplog):
    owner.kill()  # and not yet waited for, as in a container whose first process waits for none
    time.sleep(0.2)
    with caplog.at_level(logging.WARNING, "gam_kg"), run_lock(tmp_path, "train"):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert f"stale lock of gam-kg train, process {owner.pid} " in caplog.text
    assert files_of(tmp_path) == []


def test_a_process_with_the_number_of_an_ended_one_is_another(tmp_path):
    lock_of(replace(Process.current(), started=1), tmp_path)
    with run_lock(tmp_path, "train"):
        pass


@pytest.mark.parametrize("take_over", [False, True])
@pytest.mark.parametrize(
    "process", [ELSEWHERE, replace(Process.current(), machine="0123456789ab"), replace(Process.current(), host="x")]
)
def test_another_machine_is_never_judged_by_process_numbers_of_this_one(tmp_path, process, take_over):
    lock_of(replace(process, pid=2**22 + 1), tmp_path, silent=STALE_SECONDS / 2)
    before = (tmp_path / LOCK).read_bytes()
    with pytest.raises(RunInUseError, match="in use"), run_lock(tmp_path, "train", take_over=take_over):
        pytest.fail("two are in")
    assert (tmp_path / LOCK).read_bytes() == before


def test_a_silent_lock_of_another_machine_is_replaced_when_the_user_says_so(tmp_path, caplog):
    lock_of(ELSEWHERE, tmp_path, silent=10 * STALE_SECONDS)
    with pytest.raises(RunInUseError, match=r"stale.*4711 of ada on node-7.*--take-over"), run_lock(tmp_path, "train"):
        pytest.fail("two are in")
    with run_lock(tmp_path, "train", take_over=True):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert "node-7" in caplog.text
    assert files_of(tmp_path) == []


DAMAGED = [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": 1}', b"[" * 5000, b'{"host": 1, "machine": 2, "pid": "x"}']
DAMAGED.append(json.dumps({**asdict(Process.current()), "pid": 10**30, "user": "", "verb": "", "since": ""}).encode())
DAMAGED.append(json.dumps({**asdict(Process.current()), "pid": -1, "user": "", "verb": "", "since": ""}).encode())


@pytest.mark.parametrize("contents", DAMAGED)
def test_a_damaged_lock_is_another_machines(tmp_path, contents):
    (tmp_path / LOCK).write_bytes(contents)
    for take_over in (False, True):
        with pytest.raises(RunInUseError, match="in use"), run_lock(tmp_path, "train", take_over=take_over):
            pytest.fail("two are in")
    os.utime(tmp_path / LOCK, (1, 1))
    with pytest.raises(RunInUseError, match="--take-over"), run_lock(tmp_path, "train"):
        pytest.fail("two are in")
    with run_lock(tmp_path, "train", take_over=True):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["pipe", "broken link"])
def test_a_lock_that_is_no_file_is_another_machines_and_stops_nobody_for_ever(tmp_path, make):
    make(tmp_path / LOCK)
    with pytest.raises(RunInUseError, match="in use"), run_lock(tmp_path, "train", take_over=True):
        pytest.fail("two are in")
    os.utime(tmp_path / LOCK, (1, 1), follow_symlinks=False)
    with run_lock(tmp_path, "train", take_over=True):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("process", [ELSEWHERE, replace(Process.current(), started=1)], ids=["silent", "ended"])
def test_of_many_takers_one_gets_in(tmp_path, process):
    lock_of(process, tmp_path, silent=10 * STALE_SECONDS)
    takers = [start(TAKER, tmp_path) for _ in range(4)]
    try:
        for taker in takers:
            print("go", file=taker.stdin, flush=True)
        answers = sorted(taker.stdout.readline().strip() for taker in takers)
        assert answers == ["in", "refused", "refused", "refused"]
        assert files_of(tmp_path) == [LOCK]
    finally:
        for taker in takers:
            end(taker)


def test_a_taker_killed_while_taking_is_no_obstacle(tmp_path):
    dead = replace(Process.current(), started=1)
    lock_of(dead, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(MemoryError))
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(MemoryError), run_lock(tmp_path, "train"):
            pytest.fail("it was in")
    claims = [path for path in tmp_path.iterdir() if path.name.startswith(f"{LOCK}.") and "new" not in path.name]
    assert len(claims) == 1
    claims[0].write_text(json.dumps({**json.loads(claims[0].read_text()), **asdict(dead)}))
    with run_lock(tmp_path, "train"):
        pass
    assert not claims[0].exists()


@pytest.mark.parametrize("call", range(12))
def test_a_taker_killed_at_any_call_leaves_nothing_that_the_next_one_does_not_remove(tmp_path, call):
    lock_of(replace(Process.current(), started=1), tmp_path)
    killed = """
import os, sys
from pathlib import Path
from gam_kg.run_lock import run_lock
left = int(sys.argv[2])
def counted(of):
    def called(*arguments, **settings):
        global left
        if not left:
            os._exit(9)
        left -= 1
        return of(*arguments, **settings)
    return called
os.link = counted(os.link)
for name in ("write_bytes", "replace", "unlink"):
    setattr(Path, name, counted(getattr(Path, name)))
with run_lock(Path(sys.argv[1]), "train"):
    os._exit(9)
"""
    taker = start(killed, tmp_path, call)
    taker.communicate(timeout=60)
    assert taker.returncode == 9
    with run_lock(tmp_path, "train"):
        assert files_of(tmp_path) == [LOCK]
    assert files_of(tmp_path) == []


def test_what_lost_the_lock_puts_nothing_in_place(tmp_path):
    run, place = tmp_path / "run", tmp_path / "run" / "graph" / "rows.txt"
    with run_lock(run, "train"):
        with replacing(place) as staging:
            staging.write_text("first")
        lock_of(ELSEWHERE, run)
        with pytest.raises(RunInUseError, match=r"lost the run.*node-7"), replacing(place) as staging:
            staging.write_text("second")
        with replacing(tmp_path / "elsewhere.txt") as staging:
            staging.write_text("not in the run")
    assert place.read_text() == "first"
    assert json.loads((run / LOCK).read_text())["host"] == "node-7", "the taker's lock is not removed"


def test_the_sign_of_life_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.02)
    with run_lock(tmp_path, "train"):
        os.utime(tmp_path / LOCK, (1, 1))
        for _ in range(500):
            if (tmp_path / LOCK).stat().st_mtime > 1:
                break
            time.sleep(0.02)
        else:
            pytest.fail("no sign of life")


def test_a_forked_child_does_not_release_the_lock(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom gam_kg.run_lock import run_lock\n"
        "with run_lock(Path(sys.argv[1]), 'train'):\n    child = os.fork()\n    if child: os.waitpid(child, 0)\n"
        "    if child: print((Path(sys.argv[1]) / '.lock').exists())\n"
    )
    done = start(code, tmp_path)
    assert done.communicate(timeout=60)[0] == "True\n"
    assert files_of(tmp_path) == []


def test_a_folder_that_cannot_be_made_or_written_is_said_to_be_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="in its place"), run_lock(tmp_path / "file", "train"):
        pytest.fail("a file is no run")
    monkeypatch.setattr(Path, "write_bytes", lambda path, _: (_ for _ in ()).throw(OSError(30, "Read-only", str(path))))
    with pytest.raises(OutputError, match="Read-only"), run_lock(tmp_path, "train"):
        pytest.fail("it cannot be locked")
    assert not module._owned


def test_storage_without_hard_links_is_locked_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))
    with run_lock(tmp_path, "train"):
        assert files_of(tmp_path) == [LOCK]
        taker = start(TAKER, tmp_path)
        print("go", file=taker.stdin, flush=True)
        assert taker.stdout.readline() == "refused\n"
        end(taker)
