"""Reads damaged files of facts in a process of its own, with limited memory, and says what came of each."""

import io
import json
import random
import resource
import sys
import tempfile
import traceback
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mutations import mutated

from gam_kg.data_config import ColumnsConfig
from gam_kg.errors import GamKGError
from gam_kg.ingest.sources import Sources
from gam_kg.ingest.validation import validate

ROWS = 600
EXTRA_GIB = 2
_COLUMNS = ColumnsConfig()


def facts() -> pa.Table:
    generator = random.Random(5)
    names = [[f"{kind}{generator.randrange(40)}" for _ in range(ROWS)] for kind in ("entity ", "relation ", "Entität ")]
    times = pa.array([1_600_000_000_000_000 + generator.randrange(10**13) for _ in range(ROWS)], pa.timestamp("us"))
    ends = pa.array([None if i % 3 else 2_000_000_000_000_000 for i in range(ROWS)], pa.timestamp("us"))
    columns = ("subject", "relation", "object", "timestamp", "end_timestamp")
    return pa.table([*map(pa.array, names), times, ends], names=columns)


# Name → how a file is written.
WRITERS = {
    "checksums": {"write_page_checksum": True, "compression": "zstd"},
    "checksums, plain": {"write_page_checksum": True, "compression": "none", "use_dictionary": False},
    "checksums, pages of version 2": {"write_page_checksum": True, "data_page_version": "2.0"},
    "no checksums": {"compression": "none"},
    "no checksums, compressed": {"compression": "snappy"},
    "INT96": {"use_deprecated_int96_timestamps": True, "compression": "none", "store_schema": False},
}


def file_of(writer: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(facts(), buffer, row_group_size=250, **WRITERS[writer])
    return buffer.getvalue()


def read(path: Path) -> tuple[pa.Table, int]:
    """(the good rows, how many are bad), as `prepare` reads them."""
    sources = Sources.find(str(path))
    good, num_bad = [], 0
    for group in sources.check(_COLUMNS)[1]:
        for table, first_row in sources.read(group, _COLUMNS):
            validated = validate(table, _COLUMNS, sources.names[group.source], first_row)
            good.append(validated.good)
            num_bad += len(validated.quarantined)
    return pa.concat_tables(good), num_bad


def outcome(path: Path, expected: pa.Table) -> str:
    """What reading a file gives: "right", "refused", "quarantined", "changed", or a traceback."""
    try:
        found, num_bad = read(path)
    except GamKGError:
        return "refused"
    except BaseException:
        return traceback.format_exc()
    if num_bad:
        return "quarantined"
    return "right" if found.equals(expected) else "changed"


def main(writer: str, seed: int, first: int, last: int) -> None:
    data = file_of(writer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "facts.parquet"
        path.write_bytes(data)
        expected, _ = read(path)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_GIB * 2**30,) * 2)
        for case in range(first, last):
            path.write_bytes(mutated(data, f"{seed} {writer} {case}"))
            sys.stdout.write(json.dumps([case, outcome(path, expected)]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
