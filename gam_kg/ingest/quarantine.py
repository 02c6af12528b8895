"""The quarantine: every row that could not be stored, with its reason, and the limit on how many there may be."""

import math
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from gam_kg.config import Config
from gam_kg.errors import DataError
from gam_kg.ingest.time_format import COMMON_FORMATS
from gam_kg.ingest.time_notes import fitting_formats
from gam_kg.ingest.validation import TIME_COLUMNS, UNPARSEABLE
from gam_kg.parquet import open_writer
from gam_kg.schemas import QUARANTINE
from gam_kg.text import quoted

_ADVICE = {
    "closes_in_the_past": "; the graph has the fact in later snapshots too, and stored facts are not taken back; give "
    "an end that is no earlier than the last snapshot of the graph",
    "before_first_fact": "; snapshots are counted from the first fact of the graph; to add earlier ones, prepare and "
    "train anew",
    "unknown_split": "; allowed: train, valid, test; or divide by time, with data.split.valid_start and "
    "data.split.test_start",
}


class Quarantine:
    """Writes bad rows to a file and counts them.

    Args:
        file: The file, a part of the unfinished artifact. Where the stage fails because of bad rows, it is moved to the
            run's folder, so that the user can read it.
        config: The run's configuration.
        num_rows: Rows of the input.
    """

    NAME: ClassVar[str] = "quarantine.parquet"

    def __init__(self, file: Path, config: Config, num_rows: int) -> None:
        self.counts: dict[str, int] = {}
        self._file = file
        self._config = config
        self._num_rows = num_rows
        self._examples: dict[str, str] = {}
        self._formats = COMMON_FORMATS

    def write(self, tables: Iterable[pa.Table]) -> None:
        """Write the rows as they come, and count them by reason."""
        counts: Counter[str] = Counter()
        with open_writer(self._file, QUARANTINE) as writer:
            for table in tables:
                if len(table):
                    writer.write_table(table.cast(QUARANTINE))
                    counts.update(table["reason"].to_pylist())
                    self._remember(table)
                    unparseable = table.filter(pc.equal(table["reason"], UNPARSEABLE))
                    for name in TIME_COLUMNS:
                        self._formats = fitting_formats(unparseable[name], self._formats)
        self.counts = dict(sorted(counts.items()))

    def check(self, *, uncounted: str = "") -> None:
        """Fail above the allowed share; rows whose reason is `uncounted` do not count.

        Raises:
            DataError: More than `prepare.max_bad_fraction` of the rows are bad.
        """
        num_bad = sum(count for reason, count in self.counts.items() if reason != uncounted)
        allowed = self._config.prepare.max_bad_fraction
        if num_bad > allowed * self._num_rows:
            needed = min(math.ceil(num_bad / self._num_rows * 1000) / 1000, 1)
            self.refuse(
                f"{num_bad} of {self._num_rows} rows cannot be used, more than prepare.max_bad_fraction={allowed:g}",
                f"Mend the input, or go on without these rows: prepare.max_bad_fraction={needed:g}",
            )

    def refuse_all(self) -> NoReturn:
        """Fail because not one row can be used, and say which formats most of the timestamps would fit.

        Raises:
            DataError: Always.
        """
        advice = "Mend the input"
        if UNPARSEABLE in self.counts and self._formats:
            fit = " or ".join(f"data.time_format={text}" for text in self._formats)
            advice = f"Most of the timestamps that cannot be read fit {fit}" + (
                "; say which one is meant" if len(self._formats) > 1 else ""
            )
        self.refuse("not one row of the facts can be used", advice)

    def refuse(self, problem: str, advice: str = "Mend the input") -> NoReturn:
        """Move the file to the run's folder and fail.

        Raises:
            DataError: Always.
        """
        moved = self._config.run_path / self.NAME
        moved.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self._file, moved)
        lines = [f"{problem}:"]
        lines += [
            f"  {reason}: {count}; {self._examples[reason]}{_ADVICE.get(reason, '')}"
            for reason, count in self.counts.items()
        ]
        raise DataError("\n".join([*lines, f"All of them are in {moved}. {advice}"]))

    def _remember(self, table: pa.Table) -> None:
        for reason in set(table["reason"].unique().to_pylist()) - self._examples.keys():
            row = table.slice(table["reason"].index(reason).as_py(), 1).to_pylist()[0]
            values = {name: value for name, value in row.items() if name not in ("file", "row", "reason")}
            optional = {name for name in ("end_timestamp", "split") if values[name] is None}
            shown = ", ".join(f"{name}={quoted(value)}" for name, value in values.items() if name not in optional)
            self._examples[reason] = f"for instance row {row['row']} of {row['file']}: {shown}"
