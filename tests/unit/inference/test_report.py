"""Tables of an evaluation."""

from copy import deepcopy

import pytest

from gam_kg.inference.report import LABELS, best_table, difference_table, part_table, result_tables, worse_table
from gam_kg.schemas import DIRECTIONS, ENTITIES_SEEN, FILTERS, MODEL, SETTINGS, STRATA

BEST, OTHER = "typed_pair_counts", "popularity"


def summary(mrr, count=300):
    return {"mrr": mrr, "hits@1": mrr, "hits@3": mrr, "hits@10": mrr, "count": count}


def tree(mrr):
    """Of one scorer."""
    setting = {
        **{name: {side: summary(mrr) for side in DIRECTIONS} for name in FILTERS},
        "strata": {name: summary(mrr, 100) for name in STRATA},
        "entities": {name: summary(mrr / 4, 150) for name in ENTITIES_SEEN},
        "horizons": {"1": summary(mrr, 75), "3-5": summary(mrr / 2, 225)},
        "relations": {},
        "inverse_relations": {},
        "curve": [],
    }
    return {"test": {name: deepcopy(setting) for name in SETTINGS}}


def part(mean, half, *, best=BEST, of_other=0.1):
    """A part in which the model is ahead of the best baseline by a mean, with an interval of half a width around it."""
    return {
        "count": 1200,
        "best_baseline": best,
        "model_minus": {
            OTHER: {"mrr": of_other, "low": of_other - 0.01, "high": of_other + 0.01},
            BEST: {"mrr": mean, "low": mean - half, "high": mean + half},
        },
    }


@pytest.fixture
def metrics():
    compared = {
        "overall": part(0.02, 0.01),
        "chosen_on": "valid",
        "strata": {"cold": part(-0.5, 0.1)},
        "entities": {name: part(0.05, 0.01) for name in ENTITIES_SEEN},
        "horizons": {"1": part(0.01, 0.02), "3-5": part(-0.03, 0.01)},
        "relations": {"likes": part(-0.04, 0.01), "owns": part(-0.01, 0.02)},
        "inverse_relations": {"likes": part(0.02, 0.01, of_other=-0.2)},
    }
    calibration = {
        "1": {"count": 9, "temperature": 0.82}
        | {f"{name}_{kind}": 0.25 for name in ("ece", "log_likelihood") for kind in ("raw", "calibrated")}
    }
    found = tree(0.4)
    for setting in SETTINGS:
        found["test"][setting]["calibration"] = calibration
    return {
        **found,
        "baselines": {OTHER: tree(0.1), BEST: tree(0.3)},
        "comparison": {"test": {name: deepcopy(compared) for name in ("multi_step", "single_step")}},
    }


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
    every = len(result_tables(metrics, "test"))
    del metrics["comparison"]
    assert len(result_tables(metrics, "test")) == every - 3
    for one in (metrics, *metrics["baselines"].values()):
        del one["test"]["multi_step"]
    assert len(result_tables(metrics, "test")) == every - 4


def test_answers_of_entities_unseen_in_training_are_shown_alone(metrics):
    header, rows = part_table(metrics, "test", "single_step", "entities")
    assert header[1:] == ["seen-in-training (50 %)", "unseen-in-training (50 %)"]
    assert rows[0] == [LABELS[MODEL], "10.0", "10.0"]
    assert (header, rows) in result_tables(metrics, "test")
    _, rows = best_table(metrics, "test")
    for setting in ("single-step", "multi-step"):
        expected = ["entities unseen-in-training", setting, "1,200", LABELS[BEST], "+5.0 [+4.0, +6.0]"]
        assert expected in rows
