"""Embeddings and predictions of a run are versions: latest and past ones, metadata, names as the facts have them."""

import re
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flows import SMALL, gam_kg, link, with_run_dir, write_facts

from gam_kg.artifacts import open_artifact, read_manifest
from gam_kg.config import load_config
from gam_kg.graph.update_chain import write_update
from gam_kg.inference.search import nearest_entities
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import ENTITIES
from gam_kg.versions import base_of, latest, open_version, read_embeddings, retain, versions
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


def queries_of_the_page():
    return re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


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
    query, _ = queries_of_the_page()
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


def test_an_update_is_followed_by_versions_of_its_moment(copied):
    before = TrainedRun.load(copied.run_path)
    added = [[0, 0, 1, 24], [1, 0, len(before.entities), 24]]
    update = write_update(
        copied.run_path,
        graph=before.graph_manifest,
        checkpoint=before.checkpoint_manifest,
        previous=None,
        vocabularies=(before.entities, before.relations),
        facts=np.array(added),
        entities=pa.table([[len(before.entities)], ["someone new"], [1], [24]], schema=ENTITIES),
    )
    folders = [copied.run_path / kind for kind in ("embeddings", "predictions")]
    for stage, folder in zip((embed, predict), folders, strict=True):
        version = stage(copied)
        assert version == latest(folder) == folder / "as_of=2020-01-25"
        assert read_manifest(version, folder.name).inputs["updates"] == update.manifest.id
        assert stage(copied) == version
    table = pq.read_table(folders[0] / "as_of=2020-01-25" / "entities.parquet").to_pandas().set_index("entity_id")
    assert table["entity"][len(before.entities)] == "someone new"
    assert table["last_seen"][[0, 1, len(before.entities)]].tolist() == ["2020-01-25"] * 3
    content = read_manifest(latest(folders[0]), "embeddings").content
    assert (content["num_entities"], content["vocabulary"]) == (len(table), update.content["vocabulary"])
    past = with_run_dir(copied, copied.run_path, embed={"at": "2020-01-24"})
    assert embed(past).name == "as_of=2020-01-24.revision-2", "the new entity is in it"
    assert latest(folders[0]).name == "as_of=2020-01-25"


def add_facts(run_path, *facts):
    """Add an update of facts (subject, relation, object, snapshot) of known names to a run."""
    before = TrainedRun.load(run_path)
    write_update(
        run_path,
        graph=before.graph_manifest,
        checkpoint=before.checkpoint_manifest,
        previous=before.updates[-1] if before.updates else None,
        vocabularies=(before.entities, before.relations),
        facts=np.array(facts),
    )


def test_a_delta_has_the_rows_that_changed_and_all_rows_are_read_with_its_base(copied):
    folder = copied.run_path / "embeddings"
    base = latest(folder)
    before = pq.read_table(base / "entities.parquet")
    config = with_run_dir(
        copied, copied.run_path, publish={"embeddings": "delta", "keep_versions": 1, "grace_minutes": 0}
    )
    for snapshot in (24, 25):
        add_facts(config.run_path, (0, 0, 1, snapshot), (snapshot - 22, 1, 0, snapshot))
        version = embed(config)
    assert base_of(version) == base.name
    retain(folder, config.publish)
    assert names(folder) == [base.name, version.name], "what others are read with stays"
    table = pq.read_table(version / "entities.parquet")
    assert sorted(table["entity_id"].to_pylist()) == [0, 1, 2, 3]
    whole = read_embeddings(folder)
    assert whole.schema.equals(table.schema)
    _, query = queries_of_the_page()
    found = duckdb.execute(query.replace("RUN/", f"{config.run_path}/"))
    columns = [name for name, *_ in found.description]
    rows = [dict(zip(columns, row, strict=True)) for row in found.fetchall()]
    assert [
        row | {"embedding": list(row["embedding"]), "search_vector": list(row["search_vector"])} for row in rows
    ] == (whole.to_pylist())

    full = embed(copied, force=True)
    assert base_of(full) is None
    expected = pq.read_table(full / "entities.parquet").sort_by("entity_id")
    assert whole.drop_columns("search_vector").equals(expected.drop_columns("search_vector"))
    assert whole.slice(4).equals(before.slice(4)), "unchanged rows are those of the base"
    assert not whole.slice(0, 4).equals(before.slice(0, 4))
    assert np.linalg.norm(np.stack(whole["search_vector"].to_numpy()), axis=1) == pytest.approx(1, abs=1e-5)


def test_a_delta_is_full_where_no_base_serves(copied):
    config = with_run_dir(copied, copied.run_path, publish={"embeddings": "delta"})
    add_facts(config.run_path, (0, 0, 1, 24))
    assert base_of(embed(config)) == "as_of=2020-01-24"
    assert base_of(embed(config, force=True)) is None
    add_facts(config.run_path, *((entity, 0, entity - 1, 25) for entity in range(1, 13)))
    assert base_of(embed(config)) is None, "more than half of the rows have changed"
    add_facts(config.run_path, (3, 1, 2, 5))
    assert base_of(embed(config)) is None, "facts before the full versions were added"


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
