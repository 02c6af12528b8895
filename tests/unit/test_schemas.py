"""The page of files says of every table what its schema says."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from gam_kg import schemas
from gam_kg.artifacts import Manifest
from gam_kg.data_config import ColumnsConfig
from gam_kg.inference.queries import QUERY_COLUMNS

PAGE = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
DIM = 7
SCHEMAS = {
    "graph/entities.parquet": schemas.ENTITIES,
    "graph/relations.parquet": schemas.RELATIONS,
    "graph/entity_features.parquet": schemas.ENTITY_FEATURES,
    "graph/snapshots.parquet": schemas.SNAPSHOTS,
    "graph/open_facts.parquet": schemas.OPEN_FACTS,
    "graph/anchored/bucket=NNN/part-N.parquet": schemas.ANCHORED,
    "graph/quarantine.parquet": schemas.QUARANTINE,
    "updates/NNNNNN/facts.parquet": schemas.UPDATE_FACTS,
    "updates/NNNNNN/fine_tuning.parquet": schemas.FINE_TUNING,
    "evaluation/ranks.parquet": schemas.RANKS,
    "evaluation/over_time.parquet": schemas.OVER_TIME,
    "embeddings/as_of=.../entities.parquet": schemas.embedding_schema("entity", DIM),
    "embeddings/as_of=.../relations.parquet": schemas.embedding_schema("relation", DIM),
    "predictions/as_of=.../predictions.parquet": schemas.PREDICTIONS,
    "ablation/ablation.parquet": schemas.ABLATION,
    "tune/trials.parquet": schemas.TRIALS,
}


def tables(heading):
    """The tables below a heading, as lists of rows without their headers."""
    section = re.split(r"\n##+ ", PAGE.partition(f"\n### {heading}\n")[2], maxsplit=1)[0]
    found = re.findall(r"(?:^\|.*\|\n)+", section, re.MULTILINE)
    rows = [[re.split(r" *\| *", line.strip("|").strip()) for line in table.splitlines()] for table in found]
    return [table[2:] for table in rows]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_is_described_as_it_is(name):
    expected = [(field.name, str(field.type), "yes" if field.nullable else "no") for field in SCHEMAS[name]]
    found = [tuple(row[:3]) for row in tables(f"`{name}`")[0]]
    assert found == [(column, kind.replace(f"[{DIM}]", "[dim]"), null) for column, kind, null in expected]


def test_every_schema_is_on_the_page():
    written = [value for value in vars(schemas).values() if isinstance(value, type(schemas.RANKS))]
    assert all(any(schema is one for one in SCHEMAS.values()) for schema in written)


def test_columns_that_are_read_keys_of_manifests_and_statuses_are_on_the_page():
    assert [row[0] for row in tables("Facts: Parquet")[0]] == list(ColumnsConfig.model_fields)
    assert [row[0] for row in tables("Queries")[0]] == list(QUERY_COLUMNS)
    assert {row[0] for row in tables("`manifest.json`")[0]} == {field.name for field in fields(Manifest)} | {"id"}
    assert [row[0] for row in tables("`predictions/as_of=.../predictions.parquet`")[1]] == list(schemas.STATUSES)
