"""Runs side by side: the same answers are joined whatever their order, and others are refused."""

import numpy as np
import pyarrow as pa
import pytest

from gam_kg.artifacts import Manifest, write_artifact
from gam_kg.config import Config, ModelConfig
from gam_kg.errors import ArtifactError, EvaluationError
from gam_kg.inference import run_comparison
from gam_kg.inference.comparison_tables import comparison_tables, ensemble_tables, figure_tables, settings_table
from gam_kg.inference.run_comparison import Ranked, compare, ranked_by_all
from gam_kg.metrics.bootstrap import paired_difference
from gam_kg.parquet import write_table
from gam_kg.schemas import ENTITIES_SEEN

QUERIES = [(day, subject, relation) for day in (8, 9) for subject in range(5) for relation in range(2)]
ANSWERS = [(*query, answer) for query in QUERIES for answer in (5, 6)]


def ranks_table(rank, answers=ANSWERS, **columns):
    """Ranks of answers (snapshot, subject, relation, object), each as the object and, of day 9, as the subject."""
    rows = []
    for row, (day, subject, relation, other) in enumerate(answers):
        for direction in ("object", "subject")[: day - 7]:
            shown = {"subject": f"s{subject}", "relation": f"r{relation}", "object": f"o{other}"}
            ids = {"subject_id": subject, "relation_id": relation, "object_id": other}
            stratum = "cold" if other == 6 else "recurrent"
            split = "valid" if day == 8 else "test"
            rows.append({"split": split, "snapshot": day, "timestamp": f"day {day}", "direction": direction, **shown})
            entities = ENTITIES_SEEN[day == 9 and other == 6]
            rows[-1] |= {
                **ids,
                "stratum": stratum,
                "entities": entities,
                "horizon": 1 + other - 5,
                "rank": float(rank[row]),
            }
    table = pa.Table.from_pylist(rows)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(np.resize(values, len(table))))
    return table


def evaluated(folder, table):
    def write(staging):
        write_table(table, staging / "ranks.parquet")
        return {}

    write_artifact(folder / "evaluation", Manifest.of("evaluation", {}, {}), write)
    return Ranked.read(folder)


def draw(seed):
    return np.random.default_rng(seed).geometric(0.3, len(ANSWERS)).astype(float)


def test_answers_are_joined_whatever_their_order(tmp_path):
    first, second = draw(0), draw(1)
    table = ranks_table(second)
    shuffled = table.take(np.random.default_rng(2).permutation(len(table)))
    found = compare([evaluated(tmp_path / "a", ranks_table(first))], [evaluated(tmp_path / "b", shuffled)])
    assert [(one.split, one.answers, one.count) for one in found] == [
        *(("valid", part, count) for part, count in (("both", 20), ("object", 20), ("recurrent", 10), ("cold", 10))),
        ("valid", "seen_in_training", 20),
        *(("test", part, count) for part, count in (("both", 40), ("object", 20), ("subject", 20))),
        *(("test", part, 20) for part in ("recurrent", "cold", *ENTITIES_SEEN)),
    ]
    valid = slice(0, 20)  # the two answers of a query are neighbours
    by_hand = paired_difference(1 / second[valid], 1 / first[valid], np.arange(20) // 2)
    assert found[0].first == pytest.approx([(1 / first[valid]).mean()])
    assert found[0].second == pytest.approx([(1 / second[valid]).mean()])
    assert vars(found[0].difference) == pytest.approx(vars(by_hand), abs=0.02)
    assert found[0].difference.mean == pytest.approx(by_hand.mean)
    cold = found[3]
    assert cold.first == pytest.approx([(1 / first[valid][1::2]).mean()])


def test_a_query_is_asked_from_either_side(tmp_path):
    # One fact a day and relation, queried for its object and its subject: two queries each.
    ranked = evaluated(tmp_path, ranks_table([1.0, 2.0], [(9, 0, 0, 5), (9, 1, 0, 5)])).of("test")
    queried = list(zip(ranked.table["direction"].to_pylist(), ranked.query().tolist(), strict=True))
    of_objects, of_subjects = ([number for side, number in queried if side == name] for name in ("object", "subject"))
    assert len(set(of_objects)) == 2, "s0 and s1 are queried for different objects"
    assert len(set(of_subjects)) == 1, "the two subjects of (?, r0, o5) answer one query"
    assert not {*of_objects} & {*of_subjects}


def test_the_ranks_of_several_seeds_are_averaged_answer_by_answer(tmp_path):
    ranks = [draw(seed) for seed in range(3)]
    runs = [evaluated(tmp_path / str(seed), ranks_table(rank)) for seed, rank in enumerate(ranks)]
    found = compare(runs[:2], runs[2:])[0]
    expected = [(1 / ranks[seed][:20]).mean() for seed in range(3)]
    assert [*found.first, *found.second] == pytest.approx(expected)
    assert found.difference.mean == pytest.approx(expected[2] - (expected[0] + expected[1]) / 2)


def test_other_answers_are_refused_with_an_example(tmp_path):
    whole, part = evaluated(tmp_path / "a", ranks_table(draw(0))), ranks_table(draw(0), ANSWERS[:-1])
    with pytest.raises(EvaluationError, match=r"2 are in the first only, 0 in the second only, as .*day 9.*facts"):
        compare([whole], [evaluated(tmp_path / "b", part)])


def test_only_what_both_have_is_compared(tmp_path):
    both = evaluated(tmp_path / "a", ranks_table(draw(0), rank_multi_step=[1.0, 3.0]))
    single = evaluated(tmp_path / "b", ranks_table(draw(1)))
    assert {one.setting for one in compare([both], [both])} == {"single_step", "multi_step"}
    assert {one.setting for one in compare([both], [single])} == {"single_step"}
    valid = evaluated(tmp_path / "c", ranks_table(draw(1), ANSWERS[:20]))
    assert {one.split for one in compare([both], [valid])} == {"valid"}
    test = evaluated(tmp_path / "d", ranks_table(draw(1)[20:], ANSWERS[20:]))
    with pytest.raises(EvaluationError, match="no split was evaluated in all of them"):
        compare([valid], [test])


def test_multi_step_is_compared_by_horizon(tmp_path):
    first = evaluated(tmp_path / "a", ranks_table(draw(0), rank_multi_step=[1.0, 4.0]))
    second = evaluated(tmp_path / "b", ranks_table(draw(1), rank_multi_step=[2.0]))
    found = {
        one.answers: one for one in compare([first], [second]) if (one.split, one.setting) == ("valid", "multi_step")
    }
    assert [part for part in found if "horizon" in part] == ["horizon 1", "horizon 2"]
    assert found["horizon 1"].difference.mean == pytest.approx(0.5 - 1)
    assert found["horizon 2"].difference.mean == pytest.approx(0.5 - 0.25)
    assert not [one for one in compare([first], [second]) if one.setting == "single_step" and "horizon" in one.answers]


def test_the_table_shows_percent(tmp_path):
    better = evaluated(tmp_path / "a", ranks_table(np.ones(40)))
    worse = evaluated(tmp_path / "b", ranks_table(np.full(40, 2.0)))
    header, rows = next(comparison_tables({"B": compare([better], [worse])}, "A"))
    assert header == ["valid, single-step, MRR %", "answers", "A", "B", "difference", "95 % interval"]
    assert rows[0] == ["both", "20", "100.00", "50.00", "-50.00", "-50.00 to -50.00"]


def test_the_best_baseline_is_the_best_on_validation_or_where_that_is_not_ranked_on_test(tmp_path):
    # Of 20 answers in validation and 40 in test: the first is better there, the second here.
    rank = {"first_rank": [1.0] * 20 + [9.0] * 40, "second_rank": [9.0] * 20 + [1.0] * 40}
    ranked = evaluated(tmp_path, ranks_table(draw(0), **rank, other_rank_raw=[1.0], first_rank_multi_step=[1.0]))
    assert ranked.best_baseline("single_step") == "first"
    assert ranked.of("test").best_baseline("single_step") == "second"
    assert ranked.best_baseline("multi_step") == "first"
    assert evaluated(tmp_path / "none", ranks_table(draw(0))).best_baseline("single_step") is None


def test_runs_together_are_a_row_between_the_runs_and_the_best_baseline(tmp_path):
    ranks = [draw(seed) for seed in range(3)]
    first = evaluated(tmp_path / "a", ranks_table(ranks[0], rank_multi_step=[2.0]))
    second = evaluated(tmp_path / "b", ranks_table(ranks[1], popularity_rank=[4.0]))
    together = Ranked.from_table("2 runs together", ranks_table(ranks[2])[::-1])
    tables = list(ensemble_tables(together, [first, second]))
    assert [header[0] for header, _ in tables] == ["valid, single-step, %", "test, single-step, %"]
    header, rows = tables[0]
    assert header[1:5] == ["MRR", "Hits@1", "Hits@3", "Hits@10"]
    assert [row[0] for row in rows] == ["a", "b", "2 runs together", "popularity, untrained"]
    valid = {name: rank[:20] for name, rank in zip("abt", ranks, strict=True)} | {"p": np.full(20, 4.0)}
    for row, name in zip(rows, "abtp", strict=True):
        figures = [(1 / valid[name]).mean(), *((valid[name] <= most).mean() for most in (1, 3, 10))]
        assert row[1:5] == [f"{100 * figure:.2f}" for figure in figures]
        if name == "t":
            assert row[5:] == ["", ""]
        else:
            by_hand = paired_difference(1 / valid["t"], 1 / valid[name])
            assert row[5] == f"{100 * by_hand.mean:+.2f}"
            low, high = map(float, row[6].split(" to "))
            assert low <= float(row[5]) <= high
            assert low < high

    alike = [evaluated(tmp_path / "more" / "a", ranks_table(ranks[1])), first]
    _, rows = next(ensemble_tables(together, alike))
    assert [row[0] for row in rows] == [str(tmp_path / "more" / "a"), str(tmp_path / "a"), "2 runs together"]


def test_what_all_have_ranked_is_what_is_shown(tmp_path):
    both = evaluated(tmp_path / "a", ranks_table(draw(0), rank_multi_step=[1.0, 3.0]))
    valid = evaluated(tmp_path / "b", ranks_table(draw(1), ANSWERS[:20], rank_multi_step=[2.0]))
    assert ranked_by_all([both, valid, both]) == [("valid", "single_step"), ("valid", "multi_step")]


def test_a_run_without_evaluation_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="gam-kg evaluate"):
        Ranked.read(tmp_path)


def test_each_relation_with_enough_answers_is_compared_the_largest_first(tmp_path, monkeypatch):
    monkeypatch.setattr(run_comparison, "FEWEST_ANSWERS", 11)
    answers = [*ANSWERS, *((8, subject, 0, 7) for subject in range(5))]
    ranks = np.ones(len(answers)), np.where([relation for _, _, relation, _ in answers], 4.0, 2.0)
    sides = [evaluated(tmp_path / str(side), ranks_table(rank, answers)) for side, rank in enumerate(ranks)]
    found = compare(*([side] for side in sides), by_relation=True)
    valid = [one for one in found if one.split == "valid"]
    assert [(one.answers, one.count) for one in valid] == [("object of r0", 15)]  # r1 has 10
    assert valid[0].difference.mean == pytest.approx(0.5 - 1)


def test_several_runs_are_beside_the_first(tmp_path):
    first, *others = (evaluated(tmp_path / str(rank), ranks_table(np.full(40, rank))) for rank in (1.0, 2.0, 4.0))
    found = {name: compare([first], [other]) for name, other in zip(("two", "four"), others, strict=True)}
    header, rows = next(comparison_tables(found, "one"))
    assert header[2:] == ["one", "two", "difference", "95 % interval", "four", "difference", "95 % interval"]
    assert rows[0][2:] == ["100.00", "50.00", "-50.00", "-50.00 to -50.00", "25.00", "-75.00", "-75.00 to -75.00"]
    by_name = {"one": first, "four": others[1]}
    header, rows = next(figure_tables(by_name))
    assert header == ["valid, single-step, %", "MRR", "Hits@1", "Hits@3", "Hits@10"]
    assert rows == [["one", *["100.00"] * 4], ["four", "25.00", "0.00", "0.00", "100.00"]]


def test_settings_that_differ_are_shown_and_no_others(tmp_path):
    runs = {name: tmp_path / name for name in ("a", "b", "together")}
    for name, run in runs.items():
        run.mkdir()
        if name != "together":
            config = Config(name=name, run_dir=str(run), model=ModelConfig(dim=64 if name == "a" else 32))
            (run / "config.yaml").write_text(config.to_yaml())
    assert settings_table(runs) == (["settings that differ", *runs], [["model.dim", "64", "32", ""]])
    alike = {"a": runs["a"], "again": runs["a"], "none": runs["together"]}
    assert settings_table(alike) == (["all settings are alike", *alike], [])
