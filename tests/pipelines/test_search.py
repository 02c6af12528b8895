"""What gam-kg search shows: tables, JSON and CSV, and answers to questions line by line."""

import csv
import io
import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pytest
from flows import gam_kg
from graphs import graph_of, random_facts, tiny_config, write_graph
from runs import train_run

from gam_kg.errors import ArtifactError
from gam_kg.inference.search import nearest_entities, query_answers
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.ingest.vocabulary import Vocabulary
from pipelines.cli_search import with_three_values
from pipelines.interactive import Session, completions
from pipelines.search import Question, look_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(random_facts(1, 150), buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return TrainedRun.load(folder)


@pytest.fixture
def shown(monkeypatch, capsys, folder):
    """What search writes to standard output, and to standard error."""

    def search(*arguments, lines="", status=0):
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        capsys.readouterr()
        assert gam_kg(monkeypatch, "search", str(folder), *arguments) == status
        return capsys.readouterr()

    return search


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["run", "--query", "a", "b"], ["run", "--query", "a", "b", "?"]),
        (["--query", "a", "b", "run", "--json"], ["--query", "a", "b", "?", "run", "--json"]),
        (["run", "--query", "a", "b", "?"], ["run", "--query", "a", "b", "?"]),
        (["--query", "?", "b", "c", "run"], ["--query", "?", "b", "c", "run"]),
        (["run", "--query", "a"], ["run", "--query", "a"]),
        (["run", "--like", "?"], ["run", "--like", "?"]),
    ],
)
def test_a_query_has_three_values(given, read):
    assert with_three_values(given) == read


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (("entity 1", "relation 0"), ("entity 1", None)),
        (("Entity_1", "RELATION 0", "?"), ("entity 1", None)),
        (("?", "relation 0", "entity 2"), (None, "entity 2")),
    ],
)
def test_json_and_csv_have_the_answers_and_nothing_else(shown, run, query, names):
    subject, obj = names
    expected = query_answers(run, subject, "relation 0", 5, 3, object=obj).to_pylist()
    found = json.loads(shown("--query", *query, "--at", "5", "--top-k", "3", "--json").out)
    assert (found["subject"], found["relation"], found["object"]) == (subject, "relation 0", obj)
    assert found["timestamp"] == "5"
    assert [(row["answer"], row["score"]) for row in found["answers"]] == [
        (row["answer"], row["score"]) for row in expected
    ]
    rows = list(csv.DictReader(io.StringIO(shown("--query", *query, "--at", "5", "--top-k", "3", "--csv").out)))
    assert [row["answer"] for row in rows] == [row["answer"] for row in expected]
    assert [float(row["score"]) for row in rows] == [row["score"] for row in expected]
    assert expected[0]["answer"] in shown("--query", *query, "--at", "5", "--top-k", "3").out


def test_candidates_are_filtered(shown, tmp_path):
    (tmp_path / "names.txt").write_text("entity 3\nentity 7\n", encoding="utf-8")
    found = json.loads(shown("--like", "entity 1", "--among", str(tmp_path / "names.txt"), "--json").out)
    assert {row["entity"] for row in found["answers"]} == {"entity 3", "entity 7"}
    refused = shown("--like", "entity 1", "--among", "towns", status=1)
    assert "error: among towns: no such file, and no type of entities" in refused.err


def test_names_that_are_integers_in_the_facts_are_so_in_what_is_found(run):
    numbers = pa.array(range(100, 100 + len(run.entities)))
    integers = replace(run, entities=Vocabulary(numbers.cast(pa.large_string())))
    vars(integers)["given_names"] = {"entity": numbers, "relation": run.relations.names}
    found = look_up(integers, Question(like="104"))
    assert found.question["like"] == 104
    assert found.rows["entity"].type == pa.int64()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--like", "a", "--query", "a", "b"),
        ("--like", "a", "--interactive"),
        ("--like", "a", "--json", "--csv"),
        ("--query", "a", "?"),
        ("--query", "a"),
    ],
)
def test_questions_that_cannot_be_understood_are_wrong_usage(shown, arguments):
    assert shown(*arguments, status=2).err


def test_lines_are_answered_one_by_one_and_mistakes_are_shown(shown, run):
    lines = [
        *("entity 1 | relation 0", "? | Relation 0 | entity 2 ", "like ENTITY 4", "at 3", "top 2"),
        *(
            "entity 1|relation 0|?",
            "among object-of:relation 1",
            "like entity 4",
            "nobody | relation 0",
            "entity 1 | ?",
        ),
        *("what", "", "at", "among", "like entity 4", "quit", "like entity 5"),
    ]
    found = shown("--interactive", "--json", "--top-k", "3", lines="\n".join(lines), status=1)
    answers = [json.loads(line)["answers"] for line in found.out.splitlines()]
    assert [len(rows) for rows in answers] == [3, 3, 3, 2, 2, 2]
    expected = [
        query_answers(run, "entity 1", "relation 0", None, 3),
        query_answers(run, None, "relation 0", None, 3, object="entity 2"),
        nearest_entities(run, "entity 4", None, 3),
        query_answers(run, "entity 1", "relation 0", 3, 2),
        nearest_entities(run, "entity 4", 3, 2, among="object-of:relation 1"),
        nearest_entities(run, "entity 4", None, 2),
    ]
    for rows, table in zip(answers, expected, strict=True):
        name = "answer" if "answer" in table.column_names else "entity"
        assert [row[name] for row in rows] == table[name].to_pylist()
    for mistake in ("unknown entity name", "give SUBJECT | RELATION", "what: not understood"):
        assert mistake in found.err


def test_an_answer_of_the_last_query_is_explained(shown):
    lines = ["explain 1", "entity 1 | relation 0", "explain 2", "explain 9", "quit"]
    found = shown("--interactive", "--json", "--top-k", "3", lines="\n".join(lines), status=1)
    answers, explanation = map(json.loads, found.out.splitlines())
    assert explanation["answer"] == answers["answers"][1]["answer"]
    assert sum(explanation["parts"].values()) == pytest.approx(answers["answers"][1]["score"], abs=1e-4)
    assert found.err.count("there is no such answer") == 2


def test_a_session_whose_lines_are_all_answered_succeeds(shown):
    assert shown("--interactive", lines="like entity 4\n\nentity 1 | relation 0\nexplain 1\n").out
    assert shown("--interactive", lines="like entity 4\nlike nobody\nlike entity 5\n", status=1).out


def test_a_session_says_when_its_run_was_replaced_and_shows_no_answer(folder, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(folder, path)
    session = Session(TrainedRun.load(path), Question())
    session.answer("entity 1 | relation 0")
    shutil.rmtree(path / "graph")
    write_graph(path / "graph", graph_of(random_facts(2, 90), buckets=3), buckets=3)
    capsys.readouterr()
    for line in ("entity 2 | relation 0", "like entity 2", "explain 1"):
        with pytest.raises(ArtifactError, match="graph was replaced after the run was loaded; load the run again"):
            session.answer(line)
    assert not capsys.readouterr().out


def test_tab_completes_commands_and_names_whatever_their_case(run):
    assert completions(run, "ENTITY_3") == ["entity 3"]
    assert completions(run, "li") == ["like"]
    assert completions(run, "like Entity") == [f"like {name}" for name in run.entities.names.to_pylist()]
    assert completions(run, "entity 1 | REL") == [f" {name}" for name in run.relations.names.to_pylist()]
    assert completions(run, "? | relation 0 | entity 2") == [" entity 2"]
