"""Calibration error and log-likelihood, by hand and on probabilities that are honest."""

import numpy as np
import pytest

from gam_kg.metrics.reliability import Reliability


def columns(*values):
    """Two kinds with the same values."""
    return np.repeat(np.array(values)[:, None], 2, axis=1)


def test_errors_of_four_queries_by_hand():
    found = Reliability()
    found.add(4, np.log(columns(0.5, 0.25, 0.2)), columns(0.55, 0.52), np.array([True, False]))
    found.add(5, np.log(columns(0.1)), np.array([[0.95, 1.0]]), np.array([True]))
    found.add(1, np.log(columns(0.1)), columns(0.3), np.array([False]))
    tree = found.compute()
    assert list(tree) == ["1", "3-5"]
    leaf = tree["3-5"]
    assert leaf["count"] == 3
    # Two queries lie in one tenth: |0.55 + 0.52 - 1| / 3; the third is 0.05 or 0 too low.
    assert leaf["ece_raw"] == pytest.approx((0.07 + 0.05) / 3)
    assert leaf["ece_calibrated"] == pytest.approx(0.07 / 3)
    assert leaf["log_likelihood_raw"] == pytest.approx(np.log([0.5, 0.25, 0.2, 0.1]).mean())
    assert tree["1"]["ece_raw"] == pytest.approx(0.3)
    assert tree["1"]["tenths"]["raw"] == [{"probability": pytest.approx(0.3), "share": 0.0, "count": 1}]
    two = {"probability": pytest.approx(0.535), "share": 0.5, "count": 2}
    assert leaf["tenths"]["raw"] == [two, {"probability": pytest.approx(0.95), "share": 1.0, "count": 1}]
    assert leaf["tenths"]["calibrated"] == [two, {"probability": 1.0, "share": 1.0, "count": 1}]


def test_honest_probabilities_have_a_small_error_and_squeezed_ones_a_large_one():
    generator, found = np.random.default_rng(0), Reliability()
    best = generator.uniform(0.05, 1, 20_000)
    is_answer = generator.uniform(size=len(best)) < best
    found.add(1, np.zeros((len(best), 2)), np.stack([0.5 * best, best], 1), is_answer)
    leaf = found.compute()["1"]
    for kind in ("raw", "calibrated"):
        bins = leaf["tenths"][kind]
        assert sum(one["count"] for one in bins) == leaf["count"]
        errors = [abs(one["probability"] - one["share"]) * one["count"] for one in bins]
        assert sum(errors) / leaf["count"] == pytest.approx(leaf[f"ece_{kind}"])
    assert leaf["ece_calibrated"] < 0.015
    assert leaf["ece_raw"] == pytest.approx(0.5 * best.mean(), abs=0.02)
