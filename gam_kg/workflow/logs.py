"""How log lines look: the message alone on a terminal; elsewhere, as in a job, with time, level, run and stage."""

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager

from gam_kg.text import printable

_FULL = "%(asctime)s %(levelname)s run=%(run)s stage=%(stage)s %(message)s"
_NO_WORK = ("-", "-")
_work = _NO_WORK


class LogFormatter(logging.Formatter):
    """Makes a record a line with which text from data cannot steer the terminal.

    Args:
        full: With time (UTC), level, run and stage; further lines of a message are indented.
    """

    converter = time.gmtime

    def __init__(self, *, full: bool) -> None:
        super().__init__(_FULL if full else "%(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self._line_end = "\n    " if full else "\n"

    def format(self, record: logging.LogRecord) -> str:
        record.run, record.stage = _work
        return printable(super().format(record)).replace("\n", self._line_end)


def set_up_logging(*, full: bool) -> None:
    """Write the library's log to standard error, and of other libraries their warnings, in the form of LogFormatter."""
    global _work
    _work = _NO_WORK
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter(full=full))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("gam_kg").setLevel(logging.INFO)


@contextmanager
def working_on(run: str, stage: str) -> Generator[None]:
    """Name run and stage in the log lines of the block, of its threads, and of the error that ends it."""
    global _work
    before, _work = _work, (run, stage)
    yield
    _work = before
