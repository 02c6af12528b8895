"""`data.entity_features`, from the file to predictions about entities that training has never seen."""

import logging
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from flows import gam_kg, with_run_dir

from gam_kg.artifacts import read_manifest
from gam_kg.config import load_config
from gam_kg.errors import ConfigError
from pipelines.embed import embed
from pipelines.evaluate import evaluate
from pipelines.prepare import prepare
from pipelines.search import Question, search
from pipelines.train import train

TOWNS, JOBS = ["Bree", "Dale", "Hay", "Long Lake", "Old Ford"], ["baker", "cook", "smith"]
SETTINGS = [
    *("data.split.valid_start=20", "data.split.test_start=22", "prepare.buckets=4"),
    *("model.dim=16", "model.history.dim=8", "model.dropout=0.1", "model.decoder=distmult"),
    *("train.epochs=8", "train.patience=8", "train.decay_epochs=8", "train.learning_rate=0.03", "train.max_horizon=1"),
    *("train.num_workers=0", "train.threads=1", "evaluate.splits=[test]", "evaluate.settings=[single_step]"),
]
CHANCE = {"joins": 0.46, "is_in": 0.75, "works_at": 0.61}
"""MRR of the best order of the answers of a relation for somebody of whom nothing is known."""


def write_files(folder):
    """Everybody has facts in one snapshot only, which follow from what they are."""
    generator, people, facts = np.random.default_rng(0), [], []
    for day in range(24):
        for number in range(8):
            name = f"person{day}x{number}"
            town, job = generator.choice(TOWNS), generator.choice(JOBS)
            age = int(generator.integers(20, 60))
            people.append((name, town, age, f"{job.title()}, (no. {len(people)})."))
            facts += [
                (name, "joins", f"{town} club", day),
                (name, "is_in", "seniors" if age >= 40 else "juniors", day),
                (name, "works_at", f"{job}'s", day),
            ]
    pd.DataFrame(facts, columns=["subject", "relation", "object", "timestamp"]).to_parquet(folder / "facts.parquet")
    people = pd.DataFrame(people, columns=["entity", "town", "age", "about"])
    people.to_parquet(folder / "people.parquet")
    return people


@pytest.fixture(scope="module")
def runs(tmp_path_factory, local_ray):
    """The configurations of a trained run with features and of one without, and the features."""
    folder = tmp_path_factory.mktemp("features")
    people, found = write_files(folder), []
    for name, features in (("with", folder / "people.parquet"), ("without", "null")):
        places = [f"data.facts={folder / 'facts.parquet'}", f"data.entity_features={features}"]
        config = load_config(None, [*places, f"run_dir={folder / name}", *SETTINGS])
        prepare(config)
        train(config)
        found.append(config)
    return *found, people


@pytest.fixture
def copied(runs, tmp_path):
    """The configuration of a copy of the run with features, whose files are copies too."""
    config, _, _ = runs
    shutil.copytree(config.run_path, tmp_path / "run")
    for name in ("facts", "people"):
        shutil.copy2(config.run_path.parent / f"{name}.parquet", tmp_path / f"{name}.parquet")
    files = {"facts": str(tmp_path / "facts.parquet"), "entity_features": str(tmp_path / "people.parquet")}
    moved = with_run_dir(config, tmp_path / "run", data=files)
    prepare(moved)  # records where the files are now
    return moved


def unseen_mrr(config):
    """Relation → MRR of the objects of people that training has not seen."""
    ranks = pq.read_table(evaluate(config) / "ranks.parquet").to_pandas()
    ranks = ranks[(ranks["entities"] == "unseen_in_training") & (ranks["direction"] == "object")]
    assert len(ranks) == 2 * 8 * 3
    return (1 / ranks["rank"]).groupby(ranks["relation"]).mean().to_dict()


def test_what_entities_are_tells_of_those_that_training_has_never_seen(runs):
    config, without, _ = runs
    found, baseline = unseen_mrr(config), unseen_mrr(without)
    for relation, chance in CHANCE.items():
        assert baseline[relation] < chance + 0.12, (found, baseline)
        assert found[relation] > 0.9, (found, baseline)


def test_the_graph_has_the_features_in_words_scaled_by_those_of_training(runs):
    config, _, people = runs
    content = read_manifest(config.run_path / "graph", "graph").content["entity_features"]
    ages = people["age"][: 20 * 8]
    assert (content["rows"], content["unknown"]) == (len(people), 0)
    assert content["columns"] == {
        "town": "category",
        "age": {"mean": pytest.approx(ages.mean()), "std": pytest.approx(ages.std(ddof=0))},
        "about": "text",
    }
    names = pq.read_table(config.run_path / "graph" / "entities.parquet")["entity"].to_pylist()
    stored = pq.read_table(config.run_path / "graph" / "entity_features.parquet").to_pandas()
    last = people.iloc[-1]
    of_last = stored[stored["entity_id"] == names.index(last["entity"])].set_index("feature")["weight"]
    job = last["about"].split(",")[0].lower()
    assert set(of_last.index) == {"age =", f"town = {last['town']}", f"about = {job}", "about = no"}
    assert of_last[[f"about = {job}", "about = no"]].tolist() == [0.5, 0.5]
    assert of_last["age ="] == pytest.approx((last["age"] - ages.mean()) / ages.std(ddof=0))


def test_features_that_changed_are_noticed_and_prepared_anew(copied, caplog):
    caplog.set_level(logging.INFO, "gam_kg")
    people = pd.read_parquet(copied.data.entity_features)
    people.to_parquet(copied.data.entity_features, compression="gzip")
    old = read_manifest(copied.run_path / "graph", "graph").id
    embed(copied)
    search(copied.run_path, Question(like="seniors", top_k=1))
    assert caplog.text.count("people.parquet have changed since graph/ was made from them") == 2
    for features in (None, str(copied.run_path.parent / "facts.parquet")):
        with pytest.raises(ConfigError, match=r"data.entity_features=.*graph/ was made"):
            embed(with_run_dir(copied, copied.run_path, data={"entity_features": features}))
    prepare(copied)
    assert read_manifest(copied.run_path / "graph.next", "graph").id != old


def test_a_run_without_features_refuses_some(runs):
    config, without, _ = runs
    with pytest.raises(ConfigError, match=r"people.parquet, but graph/ was made with none; run: gam-kg run CONFIG"):
        embed(with_run_dir(without, without.run_path, data={"entity_features": config.data.entity_features}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"born": pd.Timestamp("2000-01-01")}, ["column 'born' has type timestamp", "allowed: numbers, true or false"]),
        ({"entity": "person0x0"}, ["'person0x0' has several rows, row 0 of", "and 187 more"]),
        ({"entity": None}, ["column 'entity' names no entity in row 0 of"]),
        ({"age": np.inf}, ["column 'age' is infinite in row 0 of"]),
    ],
)
def test_bad_features_end_in_a_line_before_anything_is_made(runs, tmp_path, monkeypatch, capsys, change, words):
    config, _, people = runs
    people.assign(**change).to_parquet(tmp_path / "bad.parquet")
    files = [f"data.facts={config.data.facts}", f"data.entity_features={tmp_path / 'bad.parquet'}"]
    (tmp_path / "my.yaml").write_text("name: bad\n")
    status = gam_kg(monkeypatch, "prepare", tmp_path / "my.yaml", *files, f"run_dir={tmp_path / 'run'}")
    error = capsys.readouterr().err
    assert status == 1
    assert "Traceback" not in error
    assert all(word in error.replace("\n", " ") for word in words), error
    assert not (tmp_path / "run").exists()


def test_features_that_are_no_parquet_or_of_other_columns_are_refused(runs, tmp_path, monkeypatch, capsys):
    config, _, people = runs
    folder = tmp_path / "parts"
    folder.mkdir()
    arguments = [f"data.facts={config.data.facts}", f"run_dir={tmp_path / 'run'}", f"data.entity_features={folder}"]
    (tmp_path / "my.yaml").write_text("name: bad\n")
    for file, words in (
        ("a.csv", "no Parquet file there"),
        ("b.parquet", "b.parquet is not a Parquet file"),
        ("b.parquet", "b.parquet: no column 'entity', which names the entity of a row; it has 'person', 'town'"),
        ("c.parquet", "all files of data.entity_features must have the same"),
    ):
        if words.startswith("b.parquet: no"):
            people.rename(columns={"entity": "person"}).to_parquet(folder / file)
        elif file == "c.parquet":
            people[:3].to_parquet(folder / "b.parquet")
            people[3:].drop(columns="age").to_parquet(folder / file)
        else:
            (folder / file).write_text("entity,age\na,1\n")
        assert gam_kg(monkeypatch, "prepare", tmp_path / "my.yaml", *arguments) == 1
        assert words in capsys.readouterr().err.replace("\n", " ")
