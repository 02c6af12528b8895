"""A run says which of its stages it is in, in a line and in their progress."""

import logging

from gam_kg import progress as lines
from pipelines.progress import progress, stage_position


def test_the_stage_is_in_a_line_and_in_the_progress(monkeypatch, caplog):
    monkeypatch.setattr(lines, "_SECONDS_BETWEEN_LINES", -1.0)
    caplog.set_level(logging.INFO, "gam_kg")
    with stage_position(3, 7, "train"), progress("epoch 1/4", 10) as advance:
        advance(5)
    with progress("predict", 10) as advance:
        advance(5)
    first, second, third = caplog.messages
    assert first == "stage 3 of 7: train"
    assert second.startswith("stage 3 of 7, epoch 1/4: 5/10 snapshots")
    assert third.startswith("predict: 5/10 snapshots")
