"""The sentence that says what a model is worth."""

import pytest
from reports import BEST, OTHER, metrics_of, part

from gam_kg.inference.report import LABELS
from gam_kg.inference.report_verdict import verdict


def judged(mean, half, of_other=0.1):
    metrics = metrics_of()
    metrics["comparison"]["test"]["single_step"]["overall"] = part(mean, half, of_other=of_other)
    return verdict(metrics)


@pytest.mark.parametrize(
    ("mean", "kind", "headline"),
    [
        (0.017, "better", "Beats the best untrained baseline by 1.7 ± 0.4 MRR"),
        (0.002, "same", "Not distinguishable from the best untrained baseline: +0.2 ± 0.4 MRR"),
        (-0.002, "same", "Not distinguishable from the best untrained baseline: -0.2 ± 0.4 MRR"),
        (-0.017, "worse", "Worse than the best untrained baseline by 1.7 ± 0.4 MRR"),
    ],
)
def test_the_headline_is_what_the_interval_says(mean, kind, headline):
    found = judged(mean, 0.004)
    assert (found.kind, found.headline) == (kind, headline)
    assert found.headline.startswith(found.claim)
    assert (
        f"an MRR of 40.0 % on test, single-step; {LABELS[BEST]}, the best baseline on validation, reaches 30.0 %"
        in found.lines[0]
    )
    assert f"{100 * mean:+.1f} points" in found.lines[0]


def test_an_interval_that_begins_at_zero_is_no_proof():
    assert judged(0.25, 0.25, of_other=0.5).kind == "same"


AHEAD = f"({LABELS[OTHER]}, which is ahead of the best on validation, {LABELS[BEST]})"


@pytest.mark.parametrize(
    ("of_other", "kind", "headline"),
    [
        (0.015, "better", f"Beats the best untrained baseline by 1.5 ± 1.0 MRR {AHEAD}"),
        (0.005, "same", f"Not distinguishable from the best untrained baseline: +0.5 ± 1.0 MRR {AHEAD}"),
        (-0.1, "worse", f"Worse than the best untrained baseline by 10.0 ± 1.0 MRR {AHEAD}"),
    ],
)
def test_the_headline_is_about_the_baseline_that_is_ahead_on_the_split(of_other, kind, headline):
    """Although another one was the best on validation."""
    found = judged(0.02, 0.001, of_other=of_other)
    assert (found.kind, found.headline, found.baseline) == (kind, headline, OTHER)
    assert f"{LABELS[BEST]}, the best baseline on validation, reaches 30.0 %" in found.lines[0]
    assert not any(line.startswith("It is") for line in found.lines)
    assert judged(0.02, 0.001).baseline == BEST


@pytest.mark.parametrize(
    ("mean", "of_other", "line"),
    [
        (0.001, 0.005, f"It is also not distinguishable from {LABELS[OTHER]}."),
        (-0.02, 0.005, f"It is not distinguishable from {LABELS[OTHER]}."),
        (-0.2, -0.1, f"It is also worse than {LABELS[OTHER]}."),
        (-0.02, -0.1, f"It is also worse than {LABELS[BEST]}."),
    ],
)
def test_every_other_baseline_that_it_does_not_beat_is_named(mean, of_other, line):
    assert line in judged(mean, 0.004, of_other=of_other).lines


def test_where_it_is_not_better_is_said():
    metrics = metrics_of()
    metrics["comparison"]["test"]["multi_step"]["overall"] = part(-0.03, 0.01)
    lines = verdict(metrics).lines
    expected = (
        "Of 6 parts of the answers, by relation and by what had been seen, it is worse in 2: stratum cold (-50.0), "
    )
    assert f"{expected}object of likes (-4.0); in 1 of them the difference may be chance." in lines
    assert "In the multi-step setting it is worse: -3.0 ± 1.0 MRR." in lines


def test_without_baselines_nothing_is_claimed():
    metrics = metrics_of() | {"baselines": {}}
    del metrics["comparison"]
    found = verdict(metrics)
    assert (found.kind, found.headline) == ("unknown", "MRR 40.0 % on test, single-step, compared with nothing")
    assert "cannot say what that is worth" in found.lines[0]


def test_validation_is_said_to_flatter():
    found = verdict(metrics_of("valid"))
    assert "on validation, single-step" in found.lines[0]
    assert any("flatters" in line for line in found.lines)
