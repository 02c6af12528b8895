import pytest

from gam_kg.errors import ConfigError
from pipelines import memory
from pipelines.memory import Room

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(memory.os, "cpu_count", lambda: 16)


@pytest.mark.parametrize("limit", [3, 4, 10, 64])
def test_the_shares_of_a_limit_are_no_more_than_it(limit):
    room = Room.of(limit)
    assert 1 <= room.tasks <= 16
    assert room.store > 0.75 * GIB
    assert room.names > 0.1 * GIB
    taken = room.store + room.tasks * memory._TASK_BYTES + room.names * memory._COPIES_OF_NAMES + memory._FIXED_BYTES
    assert taken <= limit * GIB


def test_without_a_limit_all_cores_work_where_there_is_memory_for_them(monkeypatch):
    assert Room.of(None) == Room(tasks=16)
    monkeypatch.setattr(memory, "machine_bytes", lambda: 8 * GIB)
    assert Room.of(None) == Room(tasks=2)
    monkeypatch.setattr(memory, "machine_bytes", lambda: GIB)
    assert Room.of(None) == Room(tasks=1)
    Room.of(None).check_names(10**12)


def test_limits_that_cannot_be_met_are_refused():
    with pytest.raises(ConfigError, match=r"prepare.memory_gib=65: this machine, or container, has 64.0"):
        Room.of(65)
    room = Room.of(3)
    room.check_names(room.names)
    with pytest.raises(ConfigError, match=r"0.1\d GiB that prepare.memory_gib leaves"):
        room.check_names(room.names + 1)
