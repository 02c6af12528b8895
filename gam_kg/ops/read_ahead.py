"""What a thread makes ahead of its use, a bounded number of items."""

from collections.abc import Generator, Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

import torch

Item = TypeVar("Item")

_END_SECONDS = 60  # an item that waits for another rank, which has failed, may never be finished


def read_ahead(items: Iterator[Item], number: int) -> Generator[Item]:
    """The items, made in another thread while earlier ones are in use.

    An error of the thread is raised here, where its item would have been. Close the generator to end the thread.

    Args:
        items: Makes them; only the thread uses it until the generator has ended.
        number: How many are made ahead, at most; 0: none, and there is no thread.
    """
    if not number:
        yield from items
        return
    room, stopped = Semaphore(number), Event()
    made: SimpleQueue[tuple[Item] | BaseException | None] = SimpleQueue()
    threads = torch.get_num_threads()  # which a new thread does not have by itself

    def make() -> None:
        torch.set_num_threads(threads)
        try:
            while room.acquire() and not stopped.is_set():
                made.put((next(items),))
        except StopIteration:
            made.put(None)
        except BaseException as error:
            made.put(error)

    thread = Thread(target=make, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (found := made.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            room.release()
            yield found[0]
            del found
    finally:
        stopped.set()
        room.release()
        thread.join(_END_SECONDS)
