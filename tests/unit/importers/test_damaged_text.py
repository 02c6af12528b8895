"""Damaged text is read for what it says now, or refused: never another exception, nor rows that it does not have."""

import csv
import io
import os
from contextlib import suppress

import pyarrow as pa
import pytest
from imported import ENTITIES, HEADER, RELATIONS, rows
from mutations import mutated

from gam_kg.data_config import DataConfig
from gam_kg.errors import GamKGError
from gam_kg.importers.csv_table import SEPARATORS, read_table
from gam_kg.importers.dispatch import import_facts
from gam_kg.ingest.names import strip_names

SEED = os.environ.get("GAM_KG_FUZZ_SEED", "0")
CASES = int(os.environ.get("GAM_KG_FUZZ_CASES", "150"))

TABLES = {
    "quoted.csv": HEADER + "".join(f'"name, {day}",r,"é ""{day}""",{day}\n' for day in range(12)),
    "dates.tsv": HEADER.replace(",", "\t") + "".join(f"s{day}\t r\to\t2014-01-{day:02d}\n" for day in range(1, 12)),
    "numbers.csv": (HEADER.replace("\n", ",note\n") + "".join(f's,r,,{day}.0,"a\nb"\n' for day in range(9))).replace(
        ",", ";"
    ),
}
FOLDER = {
    "train": "".join(f"{day % 3}\t{day % 2}\t{(day + 1) % 3}\t{day}\t0\n" for day in range(9)),
    "valid": "0 1 2 10\n2 0 1 11\n",
    "entity2id": "3\n" + ENTITIES,
    "relation2id": RELATIONS,
}


def cleaned(rows):
    return [[cell or None for cell in strip_names(pa.array(row, pa.large_string())).to_pylist()] for row in rows]


def independent_readings(data):
    """All rows of as many cells as the first one, by each separator; none where the bytes are no text."""
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        with suppress(UnicodeError):
            text = data.decode(encoding)
            for separator in SEPARATORS:
                reader = csv.reader(
                    io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
                )
                with suppress(csv.Error):
                    found = [row for row in reader if "".join(row).strip()]
                    yield cleaned(found)


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_table(tmp_path, name):
    path, out = tmp_path / name, tmp_path / "out.parquet"
    good = 0
    for number in range(CASES):
        data = mutated(TABLES[name].encode(), f"{SEED} {name} {number}")
        path.write_bytes(data)
        with suppress(GamKGError):
            import_facts(str(path), out)
            good += 1
            facts = [[*row[:3]] for row in rows(out)]
            assert any(
                facts == [row[:3] for row in reading[1:] if any(row[:4])] for reading in independent_readings(data)
            ), (number, facts)
        with suppress(GamKGError):
            table = read_table(path, DataConfig())
            found = [[*row.values()] for row in table.to_pylist()]
            assert any(found == reading[1:] for reading in independent_readings(data)), (number, found)
    assert 0 < good < CASES


def test_a_damaged_folder(tmp_path):
    out = tmp_path / "out.parquet"
    good = 0
    names = {line.split("\t")[0] for line in (ENTITIES + RELATIONS).splitlines()}
    for number in range(CASES):
        damaged = [*FOLDER][number % len(FOLDER)]
        for name, content in FOLDER.items():
            data = content.encode()
            (tmp_path / f"{name}.txt").write_bytes(
                mutated(data, f"{SEED} {name} {number}") if name == damaged else data
            )
        with suppress(GamKGError):
            summary = import_facts(str(tmp_path), out)
            good += 1
            assert summary.num_facts == len(rows(out)) <= 64
            if damaged in ("train", "valid"):
                assert {cell for row in rows(out) for cell in row[:3]} <= names
    assert 0 < good < CASES
