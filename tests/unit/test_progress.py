import pytest

from gam_kg.progress import duration, progress_lines


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (99.4, "99 s"), (150, "2 min"), (5399, "90 min"), (6000, "1.7 h"), (86_400, "24.0 h")],
)
def test_a_time_is_written_in_the_unit_that_suits_it(seconds, expected):
    assert duration(seconds) == expected


def test_lines_say_how_long_the_rest_takes(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    advance = progress_lines("epoch", 100, "snapshots", lines.append)
    for now[0], done in ((10.0, 1), (20.0, 2), (30.0, 3), (1000.0, 50)):
        advance(done, "loss 1.5")
    assert lines == [
        "epoch: 2/100 snapshots, 0.1/s, 16 min left loss 1.5",
        "epoch: 50/100 snapshots, 0.1/s, 17 min left loss 1.5",
    ]
