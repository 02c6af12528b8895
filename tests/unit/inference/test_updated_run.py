"""A run with updates answers as one whose graph has had everything from the start; its evaluation stays as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import queries_of, tiny_config
from runs import train_run
from updates import END, LAST, SIZES, add_updates, divided_facts, write_prepared, write_whole

from gam_kg.artifacts import read_manifest
from gam_kg.config import EvaluateConfig, UpdateConfig
from gam_kg.errors import ArtifactError, DataError
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.graph.update_chain import write_update
from gam_kg.inference import state
from gam_kg.inference.embed import read_vectors, write_embeddings
from gam_kg.inference.evaluation import count_ticks, evaluate_run
from gam_kg.inference.search import nearest_entities, query_answers
from gam_kg.inference.state import can_advance, publish_state, read_states, state_parts, write_state_part
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.inference.update import advance_run
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.nn.model import ENTITY
from gam_kg.parquet import read_table

RELATIONS_BEFORE, RELATIONS = SIZES[0][1], SIZES[-1][1]


def prepared_run(folder, divided):
    """The folder of a run that was trained before its updates."""
    write_prepared(folder, divided)
    train_run(folder, tiny_config(epochs=1))
    return folder


def update(run, divided):
    return add_updates(run, divided, read_manifest(run / "checkpoint", "checkpoint"))


@pytest.fixture(scope="module", params=[True, False], ids=["late facts too", "no late facts"])
def runs(tmp_path_factory, request):
    """The facts, a run with its updates, and the graph that has everything."""
    folder, divided = tmp_path_factory.mktemp("runs"), divided_facts(1, late=request.param)
    run = prepared_run(folder / "run", divided)
    update(run, divided)
    write_whole(folder / "whole", divided)
    return divided, run, folder / "whole" / "graph"


def every_query(time, relations=RELATIONS, entities=SIZES[-1][0]):
    return queries_of([(s, r) for s in range(entities) for r in range(2 * relations)], time)


def scores_before(run, time, queries):
    """Scores of all entities, after all facts before a time; float64."""
    run.model.double()
    return run.scorer_before(time).table(queries.seen_from(time))


def test_scores_and_memory_are_those_of_the_whole_graph(runs):
    _, run, whole_graph = runs
    updated = TrainedRun.load(run)
    graph, _ = TemporalGraph.load(whole_graph)
    whole = replace(updated, graph=graph, updates=())
    updated.model.double()
    for time in (END - 2, END, LAST):
        for name, found in vars(updated.memory_before(time)).items():
            assert torch.equal(found, vars(whole.memory_before(time))[name]), name
        queries = every_query(time)
        found = scores_before(updated, time, queries)
        assert torch.equal(found, scores_before(whole, time, queries))
        assert found.std() > 0


def test_new_rows_change_no_score_of_what_was_there(tmp_path):
    divided = divided_facts(1, late=False)
    run = prepared_run(tmp_path, divided)
    before = TrainedRun.load(run)
    update(run, divided)
    after = TrainedRun.load(run)
    num_entities = SIZES[0][0]
    queries = every_query(END, RELATIONS_BEFORE, num_entities)
    moved = torch.where(
        queries.relation < RELATIONS_BEFORE, queries.relation, queries.relation + RELATIONS - RELATIONS_BEFORE
    )
    expected = scores_before(before, END, queries)
    found = scores_before(after, END, replace(queries, relation=moved))
    torch.testing.assert_close(found[:, :num_entities], expected, rtol=1e-12, atol=1e-12)


def test_old_rows_keep_their_values_and_new_relations_read_the_shared_ones(runs):
    _, run, _ = runs
    model, before = TrainedRun.load(run).model, TrainedRun.load(run, updated=False).model
    rows = model.relation_rows()
    assert rows[RELATIONS_BEFORE:RELATIONS].tolist() == [2 * RELATIONS] * 2
    assert rows[RELATIONS + RELATIONS_BEFORE :].tolist() == [2 * RELATIONS + 1] * 2
    now, then = model.state_dict(), before.state_dict()
    grown = [name for name in now if name != ENTITY and now[name].shape != then[name].shape]
    assert len(grown) == 24
    for found, old in ((now[name], then[name]) for name in grown):
        assert torch.equal(found[:RELATIONS_BEFORE], old[:RELATIONS_BEFORE])
        assert torch.equal(found[RELATIONS : RELATIONS + RELATIONS_BEFORE], old[RELATIONS_BEFORE:-2])
        assert torch.equal(found[-2:], old[-2:])
    vectors = model.entity_rows()
    assert torch.equal(vectors[: SIZES[0][0]], before.entity_rows())


def test_a_new_entity_starts_from_the_shared_row_and_the_words_of_its_name(runs):
    _, run, _ = runs
    model = TrainedRun.load(run).model
    # All names begin with the one word that they share.
    expected = model.shared + model.word[0] * model.word_agreement[0] * model.config.dim**0.5 / 2
    rows = model.entity_rows()[SIZES[0][0] :]
    torch.testing.assert_close(rows, expected.expand_as(rows))


CONFIGS = {
    "all": EvaluateConfig(),
    "some facts": EvaluateConfig(facts=20, splits=("test",), settings=("single_step",), baselines=False),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_evaluation_is_as_before_the_updates(tmp_path, config):
    divided, ticks = divided_facts(1), []
    run = prepared_run(tmp_path, divided)
    before = evaluate_run(TrainedRun.load(run), config)
    update(run, divided)
    updated = TrainedRun.load(run)
    after = evaluate_run(updated, config, lambda: ticks.append(1))
    assert after.metrics == before.metrics
    assert after.ranks == before.ranks
    assert len(after.ranks) > 0
    assert len(ticks) == count_ticks(updated, config)


def test_what_is_new_is_known(runs):
    _, run, _ = runs
    updated, before = TrainedRun.load(run), TrainedRun.load(run, updated=False)
    answers = query_answers(updated, "entity 9", "relation 3", top_k=20)
    assert sorted(answers["answer_id"].to_pylist()) == list(range(10))
    assert answers["timestamp"].to_pylist() == [str(LAST)] * 10
    near = nearest_entities(updated, "entity 9", top_k=20)
    assert sorted(near["entity"].to_pylist()) == [f"entity {number}" for number in range(9)]
    for read in (lambda: query_answers(before, "entity 9", "relation 0"), lambda: nearest_entities(before, "entity 9")):
        with pytest.raises(DataError, match="unknown entity"):
            read()
    assert (before.updates, updated.as_prepared.updates, len(updated.updates)) == ((), (), 3)


def test_embeddings_have_the_new_entities(runs, tmp_path):
    _, run, _ = runs
    write_embeddings(TrainedRun.load(run), LAST - 1, tmp_path)
    table = read_table(tmp_path / "entities.parquet")
    assert table["entity"].to_pylist() == [f"entity {number}" for number in range(10)]
    assert np.isfinite(read_vectors(tmp_path / "entities.parquet")).all()
    assert len(read_vectors(tmp_path / "relations.parquet")) == 2 * RELATIONS


def store_state(run, *, baselines=True):
    """Store the state after the last fact of a run, as an update does."""
    loaded = TrainedRun.load(run)
    found = advance_run(loaded, 0, loaded.graph.end, 0, with_baselines=baselines)
    with state_parts(run) as parts:
        write_state_part(parts, found.memory, loaded.history, found.baselines)
        publish_state(run, loaded.graph.end - 1, loaded.made_from, parts, UpdateConfig(), baselines=baselines)


def ticks_to(run, snapshot):
    """How many snapshots are read to get to the memory before one."""
    ticks = []
    TrainedRun.load(run).memory_before(snapshot, lambda: ticks.append(1))
    return len(ticks)


@pytest.mark.parametrize("room", [1, 16], ids=["room for the new entities", "no room"])
@pytest.mark.parametrize("late", [True, False])
def test_a_stored_state_serves_unless_an_update_changes_what_it_remembers(tmp_path, monkeypatch, late, room):
    monkeypatch.setattr(state, "_ROOM", room)
    divided = divided_facts(1, late=late)
    run = prepared_run(tmp_path, divided)
    store_state(run)
    assert ticks_to(run, END) == 0
    update(run, divided)
    loaded = TrainedRun.load(run)
    times, expected = loaded.graph.times, scores_before(loaded, LAST, every_query(LAST))
    assert ticks_to(run, LAST) == (len(times) if late else sum(time >= END for time in times))
    store_state(run)
    assert ticks_to(run, LAST) == 0
    found = TrainedRun.load(run).scorer_before(LAST).table(every_query(LAST))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    # Without the last update, that state is of facts which are not there.
    states = read_states(run, loaded.graph_manifest, loaded.checkpoint_manifest, loaded.updates[:2])
    assert LAST - 1 not in [state.after for state in states]


def states_of(run):
    loaded = TrainedRun.load(run)
    return read_states(run, *loaded.made_from)


def test_without_baselines_a_state_has_nothing_of_them_and_they_do_not_go_on_from_it(tmp_path):
    divided = divided_facts(1, late=False)
    run = prepared_run(tmp_path, divided)
    store_state(run, baselines=False)
    (stored,) = states_of(run)
    assert can_advance([stored], baselines=False) == [stored]
    assert can_advance([stored], baselines=True) == []
    (part,) = stored.history(TrainedRun.load(run).graph.partition).parts
    update(run, divided)
    expected = advance_run(TrainedRun.load(run), END, END, 1000)
    found = advance_run(TrainedRun.load(run), END, END, 1000, with_baselines=False)
    assert (found.baselines, len(found.scores) > 1) == (None, True)
    for row, of_all in zip(found.scores, expected.scores, strict=True):
        names = [name for name in of_all if name.endswith("_mrr")]
        assert len(names) == 5
        assert row == pytest.approx({name: value for name, value in of_all.items() if name not in names})
    assert expected.baselines is not None
    more = expected.baselines.store().keys() - part.keys()
    kinds = ["pairs.typed_pairs.pairs", "pairs.typed_pairs.exposures", "pairs.typed_pairs.hits"]
    fading = ["facts.strict_recurrency", "strict_recurrency.decay", "answers.fading_popularity"]
    assert sorted(more) == sorted([*kinds, *fading])
    # Where the state has them, they go on from it, with the same scores.
    (run / "updates").rename(tmp_path / "later")
    store_state(run)
    (tmp_path / "later").rename(run / "updates")
    again = TrainedRun.load(run)
    ticks = []
    assert advance_run(again, END, END, 1000, lambda: ticks.append(1)).scores == [
        pytest.approx(row) for row in expected.scores
    ]
    assert len(ticks) == sum(time >= END for time in again.graph.times)


def test_a_state_of_another_layout_is_not_used(tmp_path, monkeypatch, caplog):
    run = prepared_run(tmp_path, divided_facts(1, late=False))
    with monkeypatch.context() as patch:
        patch.setattr(state, "_LAYOUT", 1)
        store_state(run)
        assert ticks_to(run, END) == 0
    assert ticks_to(run, END) == len(TrainedRun.load(run).graph.times)
    assert "another version of gam-kg" in caplog.text


def test_how_to_get_a_state_of_this_version_is_said_once(tmp_path, monkeypatch, caplog):
    run = prepared_run(tmp_path, divided_facts(1, late=False))
    with monkeypatch.context() as patch:
        patch.setattr(state, "_LAYOUT", 1)
        store_state(run)
    for _ in range(2):
        states_of(run)
    assert caplog.text.count("the next gam-kg update writes one that is, and so does gam-kg evaluate CONFIG") == 1


def two_states(folder):
    """A run with a state after the prepared facts, and one after all."""
    divided = divided_facts(1, late=False)
    run = prepared_run(folder, divided)
    store_state(run)
    update(run, divided)
    store_state(run)
    assert [state.after for state in states_of(run)] == [LAST - 1, END - 1]
    return run


@pytest.mark.parametrize("file", ["memory_hidden*", "manifest.json"])
def test_where_the_latest_state_cannot_be_read_the_one_before_it_serves(tmp_path, file, caplog):
    run = two_states(tmp_path)
    loaded = TrainedRun.load(run)
    assert len(loaded.states) == 2
    for path in (run / "state" / f"after={LAST - 1}").glob(file):
        path.unlink()
    ticks = []
    memory = loaded.memory_before(LAST, lambda: ticks.append(1))
    assert len(ticks) == sum(time >= END for time in loaded.graph.times)
    assert "a stored state is not used" in caplog.text
    expected = loaded.memory_before(LAST, anew=True)
    torch.testing.assert_close(memory.hidden, expected.hidden, rtol=1e-4, atol=1e-4)


def test_a_state_that_another_process_has_replaced_is_not_used(tmp_path, caplog):
    run = two_states(tmp_path)
    loaded = TrainedRun.load(run)
    latest, partition = loaded.states[0], loaded.graph.partition
    store_state(run, baselines=False)  # after the same snapshot
    with pytest.raises(ArtifactError, match=f"after={LAST - 1} was replaced after this run was opened"):
        latest.history(partition)
    loaded.memory_before(LAST)
    assert "was replaced" in caplog.text


def test_a_copy_of_a_run_shares_the_counts_that_were_stored(tmp_path):
    run = prepared_run(tmp_path, divided_facts(1, late=False))
    store_state(run)
    loaded = TrainedRun.load(run)
    loaded.scorer_before(END)
    copied = loaded.copy()
    (mine,), (theirs,) = loaded.history.pair_rules.fixed, copied.history.pair_rules.fixed
    assert theirs is mine
    assert len(mine.pairs)


def test_a_run_with_a_damaged_update_is_refused(tmp_path):
    divided = divided_facts(2)
    run = prepared_run(tmp_path, divided)
    *_, last = update(run, divided)
    (last.path / "facts.parquet").write_bytes(b"other")
    with pytest.raises(ArtifactError, match=r"000003/facts.parquet was changed"):
        TrainedRun.load(run)


def test_names_that_are_not_those_of_the_updates_are_refused(tmp_path):
    divided = divided_facts(2)
    run = prepared_run(tmp_path, divided)
    graph, checkpoint = (read_manifest(run / kind, kind) for kind in ("graph", "checkpoint"))
    names = Vocabulary([f"other {number}" for number in range(6)], "entity"), Vocabulary(["a", "b"], "relation")
    given = {"previous": None, "vocabularies": names, "facts": divided.prepared[:0]}
    write_update(run, graph=graph, checkpoint=checkpoint, **given)
    with pytest.raises(ArtifactError, match="000001 was made for a graph with other names; remove it"):
        TrainedRun.load(run)
