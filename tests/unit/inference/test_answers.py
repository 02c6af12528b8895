"""Answers to queries: alone or together, among all or some candidates; and queries and candidates by name."""

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from graphs import NUM_SNAPSHOTS, features_of, graph_of, random_facts, tiny_config, write_graph
from runs import train_run

from gam_kg.config import EvaluateConfig
from gam_kg.errors import DataError
from gam_kg.graph.snapshot import Queries
from gam_kg.inference import candidates
from gam_kg.inference.answers import answer_queries, encode_query, find_names
from gam_kg.inference.candidates import candidates_of
from gam_kg.inference.evaluation import evaluate_run
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.search import nearest_entities, query_answers
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ingest.vocabulary import Vocabulary

FACTS = random_facts(1, 150)
ALL = EncodedQueries(*np.array([(s, r, t) for t in (0, 3, 7, 8, 20) for s in range(10) for r in range(6)]).T)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(FACTS, buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    return TrainedRun.load(folder)


@pytest.fixture
def names(run, monkeypatch):
    """Other names of the first entities."""

    def rename(*texts):
        renamed = pa.array([*texts, *run.entities.names[len(texts) :].to_pylist()], pa.large_string())
        return replace(run, entities=Vocabulary(renamed))

    return rename


def one(queries, number):
    return EncodedQueries(*(column[number : number + 1] for column in vars(queries).values()))


def test_an_answer_does_not_depend_on_its_batch(run):
    together = answer_queries(run, ALL, 4)
    for number in range(len(ALL)):
        alone = answer_queries(run, one(ALL, number), 4)
        np.testing.assert_allclose(alone.score[0], together.score[number], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone.probability[0], together.probability[number], rtol=1e-4)
        gap = np.abs(np.diff(together.score[number])).min()
        if gap > 1e-5:
            assert alone.entity[0].tolist() == together.entity[number].tolist()


@pytest.mark.parametrize("some", [None, [1, 4, 5, 8], [9]])
def test_scores_are_the_models_and_probabilities_a_softmax_over_the_candidates(run, some):
    among = None if some is None else np.array(some)
    rows = list(range(10)) if some is None else some
    found = answer_queries(run, ALL, 20, among=among)
    assert found.entity.shape == (len(ALL), len(rows))
    np.testing.assert_allclose(found.probability.sum(1), 1, rtol=1e-5)
    for time in np.unique(ALL.snapshot).tolist():
        of_time = np.flatnonzero(ALL.snapshot == time)
        nothing = torch.zeros(0, dtype=torch.int64)
        known = (torch.from_numpy(column[of_time]) for column in (ALL.subject, ALL.relation))
        queries = Queries(time, *known, nothing, nothing).seen_from(min(time, NUM_SNAPSHOTS))
        table = run.scorer_before(time).table(queries)
        of_answer = table.gather(1, torch.from_numpy(found.entity[of_time]))
        np.testing.assert_allclose(found.score[of_time], of_answer, rtol=1e-5, atol=1e-5)
        expected = torch.softmax(table[:, rows] / run.temperature(queries.horizon), 1)
        order = torch.from_numpy(np.searchsorted(rows, found.entity[of_time]))
        np.testing.assert_allclose(found.probability[of_time], expected.gather(1, order), rtol=1e-4)
    assert (np.diff(found.score, axis=1) <= 0).all()


def test_ranks_are_those_of_the_evaluation_without_the_other_right_answers(run):
    config = EvaluateConfig(splits=("test",), settings=("single_step",), baselines=False)
    ranks = evaluate_run(run, config).ranks.to_pandas()
    is_object = (ranks["direction"] == "object").to_numpy()
    known = np.where(is_object, ranks["subject_id"], ranks["object_id"])
    right = np.where(is_object, ranks["object_id"], ranks["subject_id"])
    relation = ranks["relation_id"].to_numpy() + np.where(is_object, 0, len(run.relations))
    query = np.stack([known, relation, ranks["snapshot"]], 1)
    for number, (row, answer) in enumerate(zip(query, right, strict=True)):
        others = right[(query == row).all(1) & (right != answer)]
        found = answer_queries(run, EncodedQueries(*row[:, None]), 10, among=np.setdiff1d(np.arange(10), others))
        score = found.score[found.entity == answer]
        least, most = (1 + (found.score > score + 1e-5).sum(), (found.score >= score - 1e-5).sum())
        assert least <= ranks["rank"][number] <= most
    assert len(ranks) > 20


def test_names_are_found_whatever_their_case_and_that_is_said(run, caplog):
    with caplog.at_level(logging.INFO, "gam_kg"):
        found = encode_query(run, "ENTITY_1", "Relation 2", None, 3)
    assert [column.tolist() for column in vars(found).values()] == [[1], [2], [3]]
    assert "'ENTITY_1' is read as 'entity 1'" in caplog.text
    assert encode_query(run, None, "relation 2", "entity 4", None).relation.tolist() == [2 + 3]


def test_many_names_are_found_whatever_their_case(names, caplog):
    renamed = names("Rome", "ROME", "Straße")
    with caplog.at_level(logging.INFO, "gam_kg"):
        found = find_names(renamed, renamed.entities, ["ENTITY_5", "entity 3", "ROME", "STRAßE", "Entity 5"])
    assert found.tolist() == [5, 3, 1, 2, 5]
    assert "'STRAßE' is read as 'Straße'" in caplog.text
    with pytest.raises(DataError, match="'rome' may be any of these entity names: 'Rome', 'ROME'"):
        find_names(renamed, renamed.entities, ["entity 3", "rome"])
    with pytest.raises(DataError, match=r"(?s)2 unknown entity name.*'nobody'.*'no one'"):
        find_names(renamed, renamed.entities, ["nobody", "rome", "no one"])


def test_a_probability_is_at_most_1(run):
    """A softmax over one candidate, whose score is rounded in another way than its logarithm."""
    for entity in range(10):
        assert answer_queries(run, ALL, 1, among=np.array([entity])).probability.max() <= 1


def test_names_that_differ_by_case_only_are_to_be_written_out(names):
    renamed = names("Rome", "ROME", "rome_x")
    assert encode_query(renamed, "ROME", "relation 0", None, None).subject.tolist() == [1]
    with pytest.raises(DataError, match="'rome' may be any of these entity names: 'Rome', 'ROME'"):
        encode_query(renamed, "rome", "relation 0", None, None)
    assert encode_query(renamed, "Rome X", "relation 0", None, None).subject.tolist() == [2]


@pytest.mark.parametrize("sides", [(None, None), ("entity 1", "entity 2")])
def test_a_query_has_one_open_side(run, sides):
    with pytest.raises(DataError, match="exactly one"):
        encode_query(run, sides[0], "relation 0", sides[1], None)


def test_candidates_are_those_that_have_been_subject_or_object_before(run):
    subject, relation, obj, time = FACTS.T
    for before in (2, NUM_SNAPSHOTS):
        known = (relation == 1) & (time < before)
        assert candidates_of(run, "object-of:relation 1", before).tolist() == np.unique(obj[known]).tolist()
        assert candidates_of(run, "subject-of:RELATION_1", before).tolist() == np.unique(subject[known]).tolist()
    with pytest.raises(DataError, match="no entity has been object-of relation 1 before 0"):
        candidates_of(run, "object-of:relation 1", 0)


def test_candidates_have_a_category_of_the_features(run, monkeypatch):
    with pytest.raises(DataError, match=r"no such file, and no type.*object-of:RELATION.*no entity features"):
        candidates_of(run, "kind=town", 8)
    rows = [(1, "kind = town", 1.0), (4, "kind = river", 1.0), (8, "kind = town", 1.0), (2, "age =", 3.0)]
    monkeypatch.setattr(candidates, "read_features", lambda *_: features_of(rows))
    assert candidates_of(run, "kind=town", 8).tolist() == [1, 8]
    with pytest.raises(DataError, match=r"'kind=town', 'kind=river'$"):
        candidates_of(run, "kind=sea", 8)


@pytest.mark.parametrize("suffix", ["txt", "csv", "plain.csv", "parquet", "numbered.csv"])
def test_candidates_are_named_in_a_file(run, tmp_path, suffix):
    path = tmp_path / f"names.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"entity": ["ENTITY_7", "entity 3"], "degree": [1, 2]}), path)
    else:
        header = {"txt": "", "plain.csv": "", "csv": "name\n", "numbered.csv": "number,name\n"}[suffix]
        comma = "1," if suffix == "numbered.csv" else ""
        path.write_text(f"{header}{comma}ENTITY_7\n{comma} entity 3\n", encoding="utf-8")
    assert candidates_of(run, str(path), 8).tolist() == [3, 7]
    answers = query_answers(run, "entity 1", "relation 0", among=str(path))
    assert sorted(answers["answer_id"].to_pylist()) == [3, 7]
    assert sorted(nearest_entities(run, "entity 7", among=str(path))["entity_id"].to_pylist()) == [3]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.txt", "entity 1\nentity 99\n", "unknown entity name"),
        ("a.txt", "\n \n", "no names"),
        ("a.csv", "x,y\n1,2\n", "expected a column of names"),
        ("a.parquet", "PAR", "not a Parquet file"),
        ("a.csv", f"name,x\n{'y' * 200_000},1\n", "a.csv, line 2: a cell cannot be read"),
    ],
)
def test_files_of_names_that_cannot_be_read_are_refused(run, tmp_path, file, content, message):
    (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        candidates_of(run, str(tmp_path / file), 8)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({}), "a.parquet: there are no columns in it"),
        (pa.table({"name": [["entity 1"]], "x": [1]}), r"column 'name' is list<.*>; expected strings or integers$"),
        (
            pa.table({"answer": [1.0], "x": [1]}),
            "column 'answer' is double; expected strings or integers; floats cannot",
        ),
        (pa.table({"entity": [True]}), "column 'entity' is bool; expected strings or integers"),
    ],
)
def test_columns_that_have_no_names_are_refused(run, tmp_path, table, message):
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        candidates_of(run, str(tmp_path / "a.parquet"), 8)


def test_names_in_a_parquet_file_may_be_coded(run, tmp_path):
    pq.write_table(pa.table({"entity": pa.array(["entity 3", "entity 3"]).dictionary_encode()}), tmp_path / "a.parquet")
    assert candidates_of(run, str(tmp_path / "a.parquet"), 8).tolist() == [3]


def test_a_text_that_is_too_long_for_a_file_is_no_type(run):
    with pytest.raises(DataError, match="no such file, and no type of entities"):
        candidates_of(run, "x" * 5000, 8)


def test_nearest_entities_are_the_same_asked_again_and_where_nothing_is_stored(run, monkeypatch):
    monkeypatch.setattr("gam_kg.inference.search._MOST_STORED", 0)
    expected = [nearest_entities(replace(run), "entity 2", at) for at in (None, 3)]
    monkeypatch.undo()
    fresh = replace(run)
    for at, table in ((None, expected[0]), (3, expected[1]), (3, expected[1]), (None, expected[0])):
        assert nearest_entities(fresh, "entity 2", at).equals(table)
    assert not expected[0].equals(expected[1])
