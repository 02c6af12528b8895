"""How a limit on memory is divided among the object store of a local Ray, its tasks and the vocabulary.

The object store has the facts that were read and shuffled, and writes to disk what does not fit. A task has a block of
facts. This process has the vocabulary, which is refused where it is too large.
"""

import os
from dataclasses import dataclass

from gam_kg.errors import ConfigError
from .plan import machine_bytes

_GIB = 2**30
_FIXED_BYTES = _GIB  # this process with its libraries, and Ray's own processes
_TASK_BYTES = 0.7 * _GIB  # measured, with blocks of 250,000 facts
_TASKS_SHARE, _STORE_SHARE = 0.35, 0.4
_COPIES_OF_NAMES = 4  # while they are sorted


@dataclass(frozen=True)
class Room:
    """Shares of a limit.

    Attributes:
        tasks: Tasks at once.
        store: Bytes of the object store; None: Ray's choice.
        names: Bytes of names with their counts, before they are sorted; None: any number.
    """

    tasks: int
    store: int | None = None
    names: int | None = None

    @classmethod
    def of(cls, limit_gib: float | None) -> "Room":
        """Divide a limit on all processes of a local Ray together.

        Args:
            limit_gib: The limit; None: as many tasks as four fifths of the machine's memory allow, and Ray's own store.

        Raises:
            ConfigError: The machine has less.
        """
        machine, cpus = machine_bytes(), os.cpu_count() or 1
        if limit_gib is None:
            return cls(_tasks(0.8 * machine, cpus))
        limit = limit_gib * _GIB
        if limit > machine:
            raise ConfigError(
                f"prepare.memory_gib={limit_gib:g}: this machine, or container, has {machine / _GIB:.1f}; lower it"
            )
        tasks, store = _tasks(limit, cpus), int(_STORE_SHARE * (limit - _FIXED_BYTES))
        names = (limit - _FIXED_BYTES - store - tasks * _TASK_BYTES) / _COPIES_OF_NAMES
        return cls(tasks, store, int(names))

    def check_names(self, num_bytes: int) -> None:
        """Refuse names, with their counts, that do not fit in this process's share.

        Raises:
            ConfigError: They are too many.
        """
        if self.names is not None and num_bytes > self.names:
            raise ConfigError(
                f"the names of the facts take more than the {self.names / _GIB:.2f} GiB that prepare.memory_gib leaves "
                "for them; raise it"
            )


def _tasks(limit: float, cpus: int) -> int:
    return max(1, min(cpus, int(_TASKS_SHARE * (limit - _FIXED_BYTES) / _TASK_BYTES)))
