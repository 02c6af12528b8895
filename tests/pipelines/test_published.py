"""Embeddings and predictions of a run are versions: latest and past ones, metadata, names as the facts have them."""

import re
import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flows import SMALL, gam_kg, link, with_run_dir, write_facts

from gam_kg.artifacts import open_artifact, read_manifest
from gam_kg.config import load_config
from gam_kg.inference.search import nearest_entities
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.versions import latest, open_version, versions
from pipelines.embed import embed
from pipelines.predict import predict
from pipelines.run import run

pytestmark = pytest.mark.ray
PAGE = Path(__file__).parents[2] / "docs" / "files.md"


@pytest.fixture
def copied(finished, tmp_path):
    """The configuration of a copy of the finished run."""
    config, _ = finished
    shutil.copytree(config.run_path, tmp_path / "run")
    return with_run_dir(config, tmp_path / "run")


def names(folder):
    return sorted(path.name for path in versions(folder))


def test_a_past_moment_is_written_beside_the_latest(copied, monkeypatch, capsys):
    folder, settings = copied.run_path / "embeddings", copied.run_path / "config.yaml"
    place = f"run_dir={copied.run_path}"
    assert gam_kg(monkeypatch, "embed", settings, place, "--at", "2020-01-10") == 0
    assert names(folder) == ["as_of=2020-01-10", "as_of=2020-01-24"]
    assert latest(folder).name == "as_of=2020-01-24"
    assert load_config(settings).embed.at is None, "the configuration of the run is that of the latest version"
    with open_version(folder, "as_of=2020-01-10") as version:
        assert open_artifact(version, "embeddings").content["after_snapshot"] == 9
        seen = pq.read_table(version / "entities.parquet")["last_seen"].drop_null().to_pylist()
    assert max(seen) == "2020-01-10"
    written = (version / "manifest.json").stat().st_mtime_ns
    assert gam_kg(monkeypatch, "embed", settings, place, "--at", "2020-01-10T12:00") == 0
    assert "embeddings: up to date" in capsys.readouterr().err
    assert (version / "manifest.json").stat().st_mtime_ns == written


def test_a_moment_after_the_last_fact_is_that_of_the_last_fact(copied, caplog):
    later = with_run_dir(copied, copied.run_path, embed={"at": "2021-01-01"})
    assert embed(later) == copied.run_path / "embeddings" / "as_of=2020-01-24"
    embed(later, force=True)
    assert "embed.at=2021-01-01 is after the last fact: the version is that after 2020-01-24" in caplog.text
    assert names(copied.run_path / "embeddings") == ["as_of=2020-01-24", "as_of=2020-01-24.revision-2"]


def test_what_is_made_again_is_a_revision_with_the_same_numbers(copied):
    folder = copied.run_path / "embeddings"
    first, second = latest(folder), embed(copied, force=True)
    assert latest(folder) == second == folder / "as_of=2020-01-24.revision-2"
    assert embed(copied) == second
    tables = [pq.read_table(version / "entities.parquet") for version in (first, second)]
    assert tables[0].equals(tables[1])


def test_latest_is_pointed_at_a_version_that_is_up_to_date(copied):
    embed(with_run_dir(copied, copied.run_path, embed={"at": "2020-01-10"}))
    for kind in ("embeddings", "predictions"):
        (copied.run_path / kind / "latest").unlink()
    run(copied)
    for kind in ("embeddings", "predictions"):
        assert latest(copied.run_path / kind).name == "as_of=2020-01-24"


def test_versions_that_need_not_stay_go(copied):
    config = with_run_dir(copied, copied.run_path, publish={"keep_versions": 2, "grace_minutes": 0})
    for day in (5, 6, 7, 8):
        embed(with_run_dir(config, config.run_path, embed={"at": f"2020-01-0{day}"}))
    assert names(config.run_path / "embeddings") == [
        "as_of=2020-01-06",
        *(f"as_of=2020-01-{d}" for d in ("07", "08", "24")),
    ]


def test_metadata_tell_moment_model_and_metric(finished):
    config, _ = finished
    model = read_manifest(config.run_path / "checkpoint", "checkpoint").id
    version = latest(config.run_path / "embeddings")
    query = "SELECT decode(key), decode(value) FROM parquet_kv_metadata(?) WHERE decode(key) LIKE 'gam_kg.%'"
    found = {
        name: dict(duckdb.execute(query, [str(path)]).fetchall())
        for name, path in {
            "entities": version / "entities.parquet",
            "relations": version / "relations.parquet",
            "predictions": latest(config.run_path / "predictions") / "predictions.parquet",
        }.items()
    }
    about = {"gam_kg.as_of": "2020-01-24", "gam_kg.model": model}
    assert found["predictions"] == about
    assert found["relations"] == about | {"gam_kg.dim": "16", "gam_kg.embedding.normalised": "false"}
    assert found["entities"] == about | {
        "gam_kg.dim": "16",
        "gam_kg.embedding.metric": "inner_product",
        "gam_kg.embedding.normalised": "true",
        "gam_kg.search_vector.metric": "cosine",
        "gam_kg.search_vector.normalised": "true",
    }


def test_the_query_on_the_page_of_files_reads_the_latest_version(finished):
    config, _ = finished
    (query,) = re.findall(r"```sql\n(SET VARIABLE version.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found = duckdb.execute(query.replace("RUN/", f"{config.run_path}/")).fetchall()
    assert len(found) == len(TrainedRun.load(config.run_path).entities)
    assert all(len(vector) == 16 for _, vector in found)


def test_both_rows_of_a_relation_have_its_id(finished):
    config, _ = finished
    table = pq.read_table(latest(config.run_path / "embeddings") / "relations.parquet").to_pandas()
    ids = {"visits": 0, "calls": 1}
    assert table["relation_id"].tolist() == [ids[name] for name in table["relation"]] == [0, 1, 0, 1]
    assert table["inverse"].tolist() == [False, False, True, True]


def test_names_that_are_integers_come_back_as_integers(tmp_path, local_ray):
    facts = write_facts(tmp_path / "facts.parquet", num_days=12)
    number = {name: 7 * place - 20 for place, name in enumerate(sorted({*facts["subject"], *facts["object"]}))}
    facts["subject"], facts["object"] = facts["subject"].map(number), facts["object"].map(number)
    facts.to_parquet(tmp_path / "facts.parquet")
    queries = pa.table({"subject": ["-20", " 1 ", "17x"], "relation": ["visits"] * 3})
    pq.write_table(queries, tmp_path / "queries.parquet")
    settings = [f"data.facts={tmp_path / 'facts.parquet'}", f"run_dir={tmp_path / 'run'}", "evaluate.baselines=false"]
    config = load_config(None, [*SMALL, "train.epochs=1", *settings, f"predict.queries={tmp_path / 'queries.parquet'}"])
    run(config)
    entities, relations = (
        pq.read_table(latest(config.run_path / "embeddings") / f"{name}.parquet") for name in ("entities", "relations")
    )
    assert entities.schema.field("entity").type == pa.int64()
    assert sorted(entities["entity"].to_pylist()) == sorted(number.values())
    assert relations["relation"].to_pylist() == ["visits", "calls"] * 2
    found = pq.read_table(latest(config.run_path / "predictions") / "predictions.parquet")
    for name in ("subject", "object", "answer"):
        assert found.schema.field(name).type == pa.int64()
    first = found.to_pandas().groupby("query_id").first(skipna=False)
    assert first["subject"].tolist()[:2] == [-20, 1]
    assert pd.isna(first["subject"][2])
    assert "unknown entity '17x'" in first["reason"][2]
    assert set(found["answer"].drop_null().to_pylist()) <= set(number.values())
    near = nearest_entities(TrainedRun.load(config.run_path), "-20", top_k=3)
    assert near["entity"].type == pa.int64()


def test_predictions_of_other_queries_are_a_revision(finished, tmp_path):
    config, _ = finished
    pq.write_table(pa.table({"subject": ["person 1"], "relation": ["visits"]}), tmp_path / "queries.parquet")
    again = with_run_dir(config, tmp_path / "run", predict={"queries": str(tmp_path / "queries.parquet")})
    link(config, again, "graph", "checkpoint")
    assert predict(again).name == "as_of=2020-01-24"
    fewer = with_run_dir(again, again.run_path, predict={"top_k": 2})
    assert predict(fewer) == latest(again.run_path / "predictions")
    assert names(again.run_path / "predictions") == ["as_of=2020-01-24", "as_of=2020-01-24.revision-2"]
    assert predict(fewer).name == "as_of=2020-01-24.revision-2"
