"""Tables of an evaluation."""

import pytest
from reports import BEST, OTHER, metrics_of, part

from gam_kg.inference.report import LABELS, best_table, difference_table, part_table, short_tables, worse_table
from gam_kg.schemas import MODEL


@pytest.fixture
def metrics():
    return metrics_of()


def test_only_what_is_worse_than_the_best_baseline_by_more_than_its_interval_is_listed(metrics):
    header, rows = worse_table(metrics, "test")
    for setting in ("multi-step", "single-step"):
        assert [row for row in rows if row[1] == setting] == [
            ["object of likes", setting, "1,200", LABELS[BEST], "-4.0 [-5.0, -3.0]"],
            ["horizon 3-5", setting, "1,200", LABELS[BEST], "-3.0 [-4.0, -2.0]"],
        ]
    assert len(rows) == 4
    assert "4 of 10" in header[0]
    assert "best on valid" in header[3]


def test_differences_are_by_baseline_and_setting(metrics):
    metrics["comparison"]["test"]["multi_step"]["overall"] = part(-0.02, 0.03)
    header, rows = difference_table(metrics, "test")
    assert header[1:] == ["single-step", "multi-step"]
    assert rows == [
        [LABELS[OTHER], "+10.0 [+9.0, +11.0]", "+10.0 [+9.0, +11.0]"],
        [LABELS[BEST], "+2.0 [+1.0, +3.0]", "-2.0 [-5.0, +1.0]"],
    ]


def test_horizons_have_the_share_of_their_answers(metrics):
    header, rows = part_table(metrics, "test", "multi_step", "horizons")
    assert header[1:] == ["1 (25 %)", "3-5 (75 %)"]
    assert rows == [
        [LABELS[MODEL], "40.0", "20.0"], [LABELS[OTHER], "10.0", "5.0"], [LABELS[BEST], "30.0", "15.0"]
    ]  # fmt: skip


def test_what_was_not_evaluated_has_no_table(metrics):
    every = len(short_tables(metrics, "test"))
    del metrics["comparison"]
    assert len(short_tables(metrics, "test")) == every - 1
    for one in (metrics, *metrics["baselines"].values()):
        del one["test"]["multi_step"]
    assert len(short_tables(metrics, "test")) == every - 2


def test_answers_of_entities_unseen_in_training_are_shown_alone(metrics):
    header, rows = part_table(metrics, "test", "single_step", "entities")
    assert header[1:] == ["seen-in-training (50 %)", "unseen-in-training (50 %)"]
    assert rows[0] == [LABELS[MODEL], "10.0", "10.0"]
    _, rows = best_table(metrics, "test")
    for setting in ("single-step", "multi-step"):
        expected = ["entities unseen-in-training", setting, "1,200", LABELS[BEST], "+5.0 [+4.0, +6.0]"]
        assert expected in rows
