"""The update verb: day by day is as good as at once, late facts follow their rule, a kill leaves before or after."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flows import gam_kg
from graphs import graph_of, random_facts, tiny_config, write_graph
from runs import train_run

from gam_kg import output
from gam_kg.artifacts import read_manifest
from gam_kg.config import Config, PublishConfig
from gam_kg.errors import ArtifactError, ConfigError, DataError, GamKGError
from gam_kg.graph import folded_updates, stored_update
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.graph.update_chain import read_updates
from gam_kg.inference.embed import read_vectors
from gam_kg.inference.state import State, read_states
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ingest.retractions import require_additions
from gam_kg.ingest.sources import Sources
from gam_kg.metrics.all_baselines import build_baselines
from gam_kg.parquet import read_table
from gam_kg.run_config import config_of_run, write_config
from gam_kg.schemas import MODEL
from gam_kg.training.evaluate import ModelScorer, rank_split, roll
from gam_kg.training.newest_weights import has_weights
from gam_kg.versions import VERSIONED, base_of, latest, read_embeddings
from pipelines.embed import embed
from pipelines.update import update

FACTS = random_facts(1, 150)
BEFORE, END = 8, 13
"""The snapshots after the last of the prepared graph and of all facts."""


def later_facts():
    """Facts of the snapshots after those of the graph; a third of their entities are new, and a relation."""
    generator = np.random.default_rng(5)
    columns = [generator.integers(0, most, 60) for most in (15, 4, 15)]
    return np.unique(np.stack([*columns, np.repeat(np.arange(BEFORE, END), 12)], 1), axis=0)


LATER = later_facts()
NAMED_AT_ONCE = np.concatenate([LATER, [[entity, 3, 0, BEFORE] for entity in range(10, 15)]])
"""The same, where the first of them name all entities: those that come later are no candidates before."""


def write_days(path, rows, **columns):
    names = (
        [f"entity {s}" for s in rows[:, 0]],
        [f"relation {r}" for r in rows[:, 1]],
        [f"entity {o}" for o in rows[:, 2]],
    )
    table = pa.table(
        [*map(pa.array, names), pa.array(rows[:, 3])], names=["subject", "relation", "object", "timestamp"]
    )
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)
    return str(path)


def at(*times, of=LATER):
    return of[np.isin(of[:, 3], times)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_graph(folder / "graph", graph_of(FACTS, buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    return folder


@pytest.fixture
def make(trained, tmp_path):
    """Makes runs with copies of the trained one's graph and checkpoint."""

    def make(name: str, **settings) -> Config:
        config = tiny_config(epochs=1).model_copy(update={"run_dir": str(tmp_path / name)})
        (tmp_path / name).mkdir()
        for kind in ("graph", "checkpoint"):
            shutil.copytree(trained / kind, tmp_path / name / kind)
        write_config(config)
        return changed(config, **{"state_snapshots": 2, **settings})

    return make


def changed(config, **settings):
    return Config.model_validate(config.model_dump() | {"update": config.update.model_dump() | settings})


def chain(config):
    return read_updates(config.run_path, read_manifest(config.run_path / "graph", "graph"))


def published(config):
    """Embeddings by name, predictions, and the scores of each snapshot."""
    version = latest(config.run_path / "embeddings")
    names = read_table(version / "entities.parquet", columns=["entity"])["entity"].to_pylist()
    vectors = dict(zip(names, read_vectors(version / "entities.parquet"), strict=True))
    predictions = read_table(latest(config.run_path / "predictions") / "predictions.parquet")
    scores = {row["snapshot"]: row for one in chain(config) for row in one.content.get("scores", [])}
    return vectors, predictions.to_pylist(), scores


def assert_same(one, other, *, scores=True):
    found, expected = published(one), published(other)
    assert found[0].keys() == expected[0].keys()
    for name, vector in expected[0].items():
        np.testing.assert_allclose(found[0][name], vector, atol=1e-5)
    # Queries are ordered by ids, which follow the order of arrival.
    keys = ("subject", "relation", "position", "answer", "times_seen", "last_seen")
    answers = [sorted(tuple(str(row[key]) for key in keys) for row in one[1]) for one in (found, expected)]
    assert answers[0] == answers[1]
    ranked = [sorted(one[1], key=lambda row: tuple(str(row[key]) for key in keys)) for one in (found, expected)]
    for mine, other_row in zip(*ranked, strict=True):
        assert mine["score"] == pytest.approx(other_row["score"], abs=1e-4)
    if scores:
        assert found[2].keys() == expected[2].keys()
        for snapshot, row in expected[2].items():
            assert found[2][snapshot] == pytest.approx(row), snapshot


@pytest.mark.parametrize("facts", [LATER, NAMED_AT_ONCE], ids=["names day by day", "names at once"])
def test_day_by_day_is_the_same_as_at_once(make, tmp_path, facts):
    daily, at_once = make("daily"), make("at_once", state_snapshots=100)
    for day in range(BEFORE, END):
        update(daily, write_days(tmp_path / f"{day}.parquet", at(day, of=facts)))
    update(at_once, write_days(tmp_path / "all.parquet", facts))
    assert (len(chain(daily)), len(chain(at_once))) == (5, 1)
    assert_same(daily, at_once, scores=facts is NAMED_AT_ONCE)
    assert set(published(daily)[2]) == set(range(BEFORE, END))
    assert len(TrainedRun.load(daily.run_path).entities) > 10


def test_scores_of_the_days_are_those_of_one_graph_with_all_facts(make, tmp_path):
    config = make("run")
    for day in range(BEFORE, END):
        update(config, write_days(tmp_path / f"{day}.parquet", at(day, of=NAMED_AT_ONCE)))
    run = TrainedRun.load(config.run_path)
    ids = {name: number for number, name in enumerate(run.entities.names.to_pylist())}
    relations = {name: number for number, name in enumerate(run.relations.names.to_pylist())}
    rows = np.concatenate([FACTS, NAMED_AT_ONCE])
    named = [[ids[f"entity {s}"], relations[f"relation {r}"], ids[f"entity {o}"], t] for s, r, o, t in rows.tolist()]
    sizes = {"num_entities": len(ids), "num_relations": len(relations)}
    whole = replace(
        graph_of(named, buckets=3, **sizes), trained=run.graph.trained, trained_relations=run.graph.trained_relations
    )
    whole = replace(whole, entity_tie=run.graph.entity_tie, relation_tie=run.graph.relation_tie)
    assert isinstance(whole, TemporalGraph)
    fresh = replace(run, graph=whole, updates=())
    scorers = {MODEL: ModelScorer(fresh.sharded, fresh.history), **build_baselines(fresh.history)}
    fresh.history.reset()
    roll(scorers.values(), fresh.history, fresh.snapshots(0, BEFORE))
    ranks = rank_split(scorers, fresh.history, fresh.snapshots(BEFORE, END), partition=whole.partition)
    for snapshot, row in published(config)[2].items():
        for name, found in ranks.time_aware.items():
            expected = (1 / found[ranks.time == snapshot]).mean()
            assert row["mrr" if name == MODEL else f"{name}_mrr"] == pytest.approx(expected), (snapshot, name)


def test_facts_that_are_there_already_add_nothing(make, tmp_path, caplog):
    config = make("run")
    day = write_days(tmp_path / "day.parquet", at(BEFORE))
    version = update(config, day)
    caplog.set_level(logging.INFO, "gam_kg")
    assert update(config, day) == version
    assert len(chain(config)) == 1
    assert f" 0 new facts, {len(at(BEFORE))} that the run has already" in caplog.text


def test_the_whole_history_again_with_a_new_day_adds_the_day(make, tmp_path):
    one, other = make("one"), make("other")
    update(one, write_days(tmp_path / "day.parquet", at(BEFORE)))
    update(other, write_days(tmp_path / "all.parquet", np.concatenate([FACTS, at(BEFORE)])))
    assert_same(one, other)


def test_a_second_part_of_the_last_snapshot_is_added_to_it(make, tmp_path):
    parts, at_once = make("parts"), make("at_once")
    rows = at(BEFORE)
    update(parts, write_days(tmp_path / "1.parquet", rows[::2]))
    update(parts, write_days(tmp_path / "2.parquet", rows[1::2]))
    update(at_once, write_days(tmp_path / "day.parquet", rows))
    assert len(chain(parts)) == 2
    assert_same(parts, at_once, scores=False)


def test_late_facts_are_refused(make, tmp_path):
    config = make("run")
    update(config, write_days(tmp_path / "late.parquet", at(BEFORE + 1)))
    with pytest.raises(DataError, match=r"before 9, the last snapshot of the run.*row 0 of .*update.late=replay"):
        update(config, write_days(tmp_path / "day.parquet", at(BEFORE, BEFORE + 2)))
    assert len(chain(config)) == 1


@pytest.mark.parametrize("file", ["graph/entities.parquet", "checkpoint/model.safetensors"])
def test_a_damaged_run_is_not_updated(make, tmp_path, file):
    config = make("run")
    content = bytearray((config.run_path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (config.run_path / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{file} was changed or damaged"):
        update(config, write_days(tmp_path / "day.parquet", at(BEFORE)))
    assert chain(config) == ()


def test_an_update_reads_a_stored_state_once(make, tmp_path, monkeypatch):
    config, read, state_history = make("run"), [], State.history
    update(config, write_days(tmp_path / "1.parquet", at(BEFORE)))

    def history(state, partition):
        read.append(state.after)
        return state_history(state, partition)

    monkeypatch.setattr(State, "history", history)
    update(config, write_days(tmp_path / "2.parquet", at(BEFORE + 1)))
    assert read == [BEFORE]


@pytest.mark.parametrize("keep_states", [0, 1, 9])
def test_late_facts_are_replayed(make, tmp_path, keep_states):
    config, at_once = make("run", late="replay", keep_states=keep_states), make("at_once")
    for number, days in enumerate([(10,), (8, 12), (9,), (11,)]):
        update(config, write_days(tmp_path / f"{number}.parquet", at(*days)))
    update(at_once, write_days(tmp_path / "all.parquet", LATER))
    assert_same(config, at_once, scores=False)
    graph, checkpoint = (read_manifest(config.run_path / kind, kind) for kind in ("graph", "checkpoint"))
    states = read_states(config.run_path, graph, checkpoint, chain(config))
    assert len(states) == min(keep_states, 1)
    assert len(list((config.run_path / "state").glob("*"))) == len(states)


def test_late_facts_are_quarantined(make, tmp_path, caplog):
    caplog.set_level(logging.INFO, "gam_kg")
    config, other = make("run", late="quarantine"), make("other")
    update(config, write_days(tmp_path / "1.parquet", at(BEFORE)))
    update(other, write_days(tmp_path / "2.parquet", at(BEFORE)))
    late = np.array([[0, 0, 1, 2], [3, 1, 9, 4]])
    late = late[~(late[:, None] == FACTS[None]).all(2).any(1)]
    assert len(late)
    update(config, write_days(tmp_path / "3.parquet", np.concatenate([at(BEFORE + 1), late])))
    update(other, write_days(tmp_path / "4.parquet", at(BEFORE + 1)))
    assert_same(config, other)
    assert chain(config)[-1].content["quarantined"] == {"late": len(late)}
    quarantine = chain(config)[-1].path / "quarantine.parquet"
    assert len(read_table(quarantine)) == len(late)
    assert f"rows that are not used are in {quarantine}" in caplog.text


def test_a_kill_leaves_the_state_before_or_the_state_after(make, tmp_path, monkeypatch):
    """The update is stopped before each rename of a finished file or folder; the next update finishes it."""
    monkeypatch.setattr(folded_updates, "_EVERY", 1)
    expected = make("expected")
    first, second = (write_days(tmp_path / f"{day}.parquet", at(day)) for day in (BEFORE, BEFORE + 1))
    for facts in (first, second):
        update(expected, facts)
    put_in_place, number = output.put_in_place, 0
    stopped = True
    while stopped:
        config = make(f"run {number}")
        update(config, first)
        calls = iter(range(1000))

        def stop(staging, path, calls=calls, last=number):
            if next(calls) == last:
                raise KeyboardInterrupt
            put_in_place(staging, path)

        monkeypatch.setattr(output, "put_in_place", stop)
        try:
            update(config, second)
            stopped = False
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(output, "put_in_place", put_in_place)
        monkeypatch.setattr(stored_update, "_SEEN", {})  # as in a new process
        assert len(chain(config)) in (1, 2)
        TrainedRun.load(config.run_path).scorer_before(BEFORE + 1)
        update(config, second)
        assert_same(config, expected)
        assert len(folded_updates.read_folded(config.run_path)) == 2
        number += 1
    assert number > 6


def test_the_command_takes_the_folder_of_a_run(make, tmp_path, monkeypatch, capsys):
    config = make("run")
    day = write_days(tmp_path / "day.parquet", at(BEFORE))
    assert gam_kg(monkeypatch, "update", config.run_path, "--facts", day) == 0
    shown = capsys.readouterr().out
    assert "MRR of new facts" in shown
    assert f"published: {latest(config.run_path / 'embeddings')}" in shown
    table = read_table(config.run_path / "evaluation" / "over_time.parquet")
    assert table["snapshot"].to_pylist() == [BEFORE]
    assert gam_kg(monkeypatch, "update", tmp_path / "none", "--facts", day) == 1
    assert "there is no such file or folder of a run" in capsys.readouterr().err
    assert gam_kg(monkeypatch, "update", config.run_path, "--facts", tmp_path / "none.parquet") == 1
    assert "none.parquet" in capsys.readouterr().err


def test_scores_are_shown_where_the_update_has_ranked_facts(make, tmp_path, capsys):
    for score_facts in (10, 0):
        config = changed(make(f"run {score_facts}"), score_facts=10)
        update(config, write_days(tmp_path / "day.parquet", at(BEFORE)))
        assert "MRR of new facts" in capsys.readouterr().out
        config = changed(config, score_facts=score_facts)
        update(config, write_days(tmp_path / "day.parquet", at(BEFORE + 1)))
        assert ("MRR of new facts" in capsys.readouterr().out) == (score_facts > 0)


def test_baselines_that_are_left_out_are_in_no_table_and_go_on_as_if_they_had_not_been(make, tmp_path, capsys, caplog):
    config, every = make("run"), make("every")
    without = config.changed({"evaluate.baselines": False})
    files = [write_days(tmp_path / f"{day}.parquet", at(day)) for day in range(BEFORE, BEFORE + 3)]
    for file in files[:2]:
        update(without, file)
    assert "popularity" not in capsys.readouterr().out
    over_time = config.run_path / "evaluation" / "over_time.parquet"
    assert [name for name in read_table(over_time).column_names if name.endswith("_mrr")] == []
    assert "count anew" not in caplog.text
    update(config, files[2])
    assert "count anew from the first fact" in caplog.text
    for file in files:
        update(every, file)
    assert published(config)[2][BEFORE + 2] == pytest.approx(published(every)[2][BEFORE + 2])
    table = read_table(over_time)
    assert [value is None for value in table["popularity_mrr"].to_pylist()] == [True, True, False]
    shown = capsys.readouterr().out
    assert "popularity" in shown
    assert "–" in shown


def test_settings_that_differ_are_refused_by_the_name_of_the_verb(make, tmp_path):
    config = make("run")
    config = config.model_copy(update={"seed": config.seed + 1})
    with pytest.raises(ConfigError, match=r"^update: settings differ"):
        update(config, write_days(tmp_path / "day.parquet", at(BEFORE)))


def test_versions_are_copied_to_another_folder(make, tmp_path):
    config = make("run")
    config = config.model_copy(update={"publish": PublishConfig(keep_versions=1, grace_minutes=0)})
    for day in (BEFORE, BEFORE + 1, BEFORE + 1):
        update(config, write_days(tmp_path / f"{day}.parquet", at(day)), to=str(tmp_path / "to"))
    assert_copied(config, lambda name: (tmp_path / "to" / name).read_bytes())
    copied = {path.name for path in (tmp_path / "to" / "embeddings").iterdir() if not path.name.startswith(".")}
    assert copied == {"latest", "as_of=9"}


def test_versions_are_copied_to_a_bucket(make, tmp_path, object_store, bucket):
    config = make("run")
    config = config.model_copy(update={"publish": PublishConfig(keep_versions=1, grace_minutes=0)})
    for day in (BEFORE, BEFORE + 1, BEFORE + 1):
        update(config, write_days(tmp_path / f"{day}.parquet", at(day)), to=f"s3://{bucket}/to")
    assert_copied(config, lambda name: object_store.read(bucket, f"to/{name}"))
    versions = {name.split("/")[2] for name in object_store.names(bucket) if name.startswith("to/embeddings/")}
    assert versions == {"latest", "as_of=9"}


def assert_copied(config, read):
    for kind in VERSIONED:
        version = latest(config.run_path / kind)
        assert read(f"{kind}/latest").decode() == version.name
        for path in version.glob("[!.]*"):
            if path.name != "manifest.json":
                assert read(f"{kind}/{version.name}/{path.name}") == path.read_bytes(), path
        manifest = json.loads(read(f"{kind}/{version.name}/manifest.json"))
        assert manifest["id"] == read_manifest(version, kind).id


@pytest.mark.parametrize("name, value", [("_op", "D"), ("is_deleted", True), ("operation", "retract")])
def test_rows_that_take_facts_back_are_refused(make, tmp_path, name, value):
    config, rows = make("run"), at(BEFORE)
    harmless = {"D": "c", True: False, "retract": "insert"}[value]
    marks = [harmless] * len(rows)
    update(config, write_days(tmp_path / "day.parquet", rows, **{name: marks}))
    marks[3] = value
    with pytest.raises(DataError, match=f"row 3 of .*day.*{name}.*takes a fact back"):
        update(config, write_days(tmp_path / "day.parquet", rows, **{name: marks}))


@pytest.mark.parametrize("number", [1, BEFORE + 2])
def test_nothing_is_added_where_a_run_has_too_few_snapshots_to_fine_tune_on(make, tmp_path, number):
    config, day = make("run"), write_days(tmp_path / "day.parquet", at(BEFORE))
    with pytest.raises(ConfigError, match=f"--fine-tune {number}: .*to {BEFORE + 1},"):
        update(config, day, fine_tune_on=number)
    assert chain(config) == ()


def test_late_is_of_one_update(make, tmp_path):
    config = make("run")
    update(config, write_days(tmp_path / "1.parquet", at(BEFORE + 1)))
    update(config, write_days(tmp_path / "2.parquet", at(BEFORE)), late="quarantine")
    recorded = config_of_run(str(config.run_path))
    assert recorded.update.late == "refuse"
    with pytest.raises(DataError, match="the last snapshot of the run"):
        update(recorded, write_days(tmp_path / "3.parquet", at(BEFORE)))


def test_a_recorded_moment_of_embed_does_not_hold_embeddings_back(make, tmp_path):
    config = make("run")
    at_end = Config.model_validate(config.model_dump() | {"embed": {"at": str(BEFORE - 1)}})
    embed(at_end)
    update(config_of_run(str(config.run_path)), write_days(tmp_path / "day.parquet", at(BEFORE)))
    assert latest(config.run_path / "embeddings").name == f"as_of={BEFORE}"


def test_an_update_may_allow_more_bad_rows_than_prepare_did(make, tmp_path):
    config, rows = make("run"), at(BEFORE)
    day = write_days(tmp_path / "day.parquet", rows)
    table = pq.read_table(day)
    subjects = table["subject"].to_pylist()
    pq.write_table(table.set_column(0, "subject", pa.array([None, *subjects[1:]])), day)
    with pytest.raises(DataError, match="max_bad_fraction"):
        update(config, day)
    allowed = config.changed({"prepare.max_bad_fraction": 0.5})
    update(allowed, day)
    assert chain(config)[-1].content["num_facts"] == len(rows) - 1
    assert config_of_run(str(config.run_path)).prepare.max_bad_fraction == config.prepare.max_bad_fraction


def test_rows_before_the_first_snapshot_have_one_reason(make, tmp_path):
    config = make("run").changed({"prepare.max_bad_fraction": 0.5, "update.late": "quarantine"})
    early = at(BEFORE)[:1].copy()
    early[:, 3] = -3
    update(config, write_days(tmp_path / "day.parquet", np.concatenate([at(BEFORE), early])))
    assert chain(config)[-1].content["quarantined"] == {"before_first_fact": 1}


def test_fine_tuning_given_again_changes_nothing(make, tmp_path):
    config = make("run")
    for day in range(BEFORE, END - 1):
        update(config, write_days(tmp_path / f"{day}.parquet", at(day)))
    last = write_days(tmp_path / "last.parquet", at(END - 1))
    version, number = update(config, last, fine_tune_on=4), len(chain(config))
    assert update(config, last, fine_tune_on=4) == version
    assert len(chain(config)) == number


def test_a_new_checkpoint_replaces_fine_tuned_weights(make, tmp_path):
    config, other = make("run"), make("other")
    for one in (config, other):
        for day in range(BEFORE, END):
            update(one, write_days(tmp_path / f"{day}.parquet", at(day)))
    update(config, write_days(tmp_path / "last.parquet", at(END - 1)), fine_tune_on=4)
    assert has_weights(chain(config)[-1], read_manifest(config.run_path / "checkpoint", "checkpoint").id)
    for one in (config, other):
        shutil.rmtree(one.run_path / "checkpoint")
        train_run(one.run_path, tiny_config(epochs=2))
        update(one.changed({"train.epochs": 2}), write_days(tmp_path / "last.parquet", at(END - 1)))
    assert_same(config, other, scores=False)


def test_updates_of_replaced_graphs_are_set_aside_each_time(make, tmp_path):
    config, other = make("run"), make("other")
    day = write_days(tmp_path / "day.parquet", at(BEFORE))
    shutil.rmtree(other.run_path / "graph")
    write_graph(other.run_path / "graph", graph_of(FACTS[:-9], buckets=3), buckets=3)
    shutil.rmtree(other.run_path / "checkpoint")
    train_run(other.run_path, tiny_config(epochs=1))
    aside = []
    for _ in range(4):
        update(config, day)
        for kind in ("graph", "checkpoint"):
            for source, target in ((config, "swap"), (other, config.run_path), ("swap", other.run_path)):
                here = tmp_path / source if isinstance(source, str) else source.run_path
                there = tmp_path / target if isinstance(target, str) else target
                there.mkdir(exist_ok=True)
                (here / kind).rename(there / kind)
        update(config, day)
        aside.append(len(list(config.run_path.glob("updates.of-*"))))
        assert len(chain(config)) == 1
    assert aside == [1, 2, 3, 4]


def test_a_copy_beside_one_of_another_run_is_whole(make, tmp_path):
    config, other = make("run"), make("other")
    second = np.array([[0, 0, 1, BEFORE + 1]])
    day = [write_days(tmp_path / "1.parquet", at(BEFORE)), write_days(tmp_path / "2.parquet", second)]
    to = tmp_path / "to"
    update(other, write_days(tmp_path / "few.parquet", at(BEFORE)[:5]), to=str(to))
    config = config.model_copy(update={"publish": PublishConfig(embeddings="delta")})
    for facts in day:
        update(config, facts, to=str(to))
    assert base_of(latest(config.run_path / "embeddings")) is not None
    assert base_of(latest(to / "embeddings")) is None
    found, expected = (read_embeddings(one) for one in (to / "embeddings", config.run_path / "embeddings"))
    assert found.to_pylist() == expected.to_pylist()
    assert {path.name for path in (to / "embeddings").glob("as_of*")} == {"as_of=8", "as_of=8.revision-2", "as_of=9"}


@pytest.mark.parametrize("to", ["", "s3://"])
def test_a_place_that_cannot_be_is_refused_before_anything_is_added(make, tmp_path, to):
    config = make("run")
    with pytest.raises(GamKGError):
        update(config, write_days(tmp_path / "day.parquet", at(BEFORE)), to=to)
    assert not chain(config)


def test_rows_of_text_that_take_facts_back_are_refused(make, tmp_path):
    config = make("run")
    facts = tmp_path / "day.csv"
    facts.write_text(
        "subject,relation,object,timestamp,op\nentity 1,relation 0,entity 2,9,c\nentity 3,relation 1,entity 4,9,d\n"
    )
    with pytest.raises(DataError, match=r"row 1 of .*day.csv.*'op'.*takes a fact back"):
        update(config, str(facts))
    named = config.changed({"data.columns.relation": "operation"})
    require_additions(
        Sources.find(write_days(tmp_path / "day.parquet", at(BEFORE), operation=["delete"] * len(at(BEFORE)))),
        named.data,
    )


def test_fine_tuned_weights_are_used_from_then_on(make, tmp_path, caplog):
    config = make("run")
    caplog.set_level(logging.INFO, "gam_kg")
    for day in range(BEFORE, END - 1):
        update(config, write_days(tmp_path / f"{day}.parquet", at(day)))
    before = published(config)[0]
    update(config, write_days(tmp_path / "last.parquet", at(END - 1)), fine_tune_on=4)
    assert "MRR of the newest snapshot" in caplog.text
    after = published(config)[0]
    untuned = TrainedRun.load(config.run_path, updated=False)
    tuned = TrainedRun.load(config.run_path).model.state_dict()
    assert not torch.equal(tuned["decoder.wide.weight"], untuned.model.state_dict()["decoder.wide.weight"])
    assert max(abs(after[name] - vector).max() for name, vector in before.items()) > 1e-3
    assert "MRR of the newest snapshot" in chain(config)[-1].content["fine_tuning"]
    assert read_table(chain(config)[-1].path / "fine_tuning.parquet")["snapshot"].to_pylist() == [END - 1]
    again = TrainedRun.load(config.run_path)
    np.testing.assert_allclose(
        again.sharded.entity_vectors(again.memory_before(END, anew=True)).detach().numpy(),
        np.stack([after[name] for name in again.entities.names.to_pylist()]),
        atol=1e-5,
    )
