import json
from contextlib import contextmanager

import pytest

from gam_kg.config import Config, TrainConfig
from gam_kg.errors import ArtifactError
from gam_kg.training.position import Progress
from gam_kg.training.training_log import TrainingLog

METRICS = {
    "epoch": 1,
    "loss": 0.5,
    "valid_mrr": 0.25,
    "facts_per_second": 10.0,
    "seconds": 2.0,
    "peak_memory_bytes": 2**30,
    "phases": {"plan": 0.5, "more": {"gather": 0.25}},
}
EVENTS = [
    Progress("train", 1, 1, 2, 0.75, snapshot={"step": 1}),
    Progress("train", 1, 2, 2, 0.5, snapshot={"step": 2}),
    Progress("validate", 1, 0, 1, 0.5),
    Progress("validate", 1, 1, 1, 0.5, metrics=METRICS),
    Progress("train", 2, 1, 2, 0.25, snapshot={"step": 3}),
]


def follow(config, events, *, anew):
    """What is shown of the events: beginnings and ends of epochs, progress, and lines."""
    shown = []

    @contextmanager
    def open_progress(description, total):
        shown.append((description, total))
        yield lambda done, note="", total=None: shown.append((done, note))
        shown.append("end")

    with TrainingLog(config, anew=anew, open_progress=open_progress, print_line=shown.append) as log:
        for event in events:
            log(event)
    return shown


def lines_of(config, name):
    return [json.loads(line) for line in (config.run_path / "log" / name).read_text().splitlines()]


@pytest.fixture
def config(tmp_path):
    return Config(run_dir=str(tmp_path / "run"), train=TrainConfig(epochs=2))


def test_events_are_shown_and_logged(config):
    assert follow(config, EVENTS, anew=True) == [
        ("epoch 1/2", 2),
        (1, "loss 0.750"),
        (2, "loss 0.500"),
        (2, "validating"),
        "end",
        "epoch 1: loss 0.500, validation MRR 25.00, 10 facts/s, 2 s, 1.0 GiB",
        ("epoch 2/2", 2),
        (1, "loss 0.250"),
        "end",
    ]
    assert lines_of(config, "steps.jsonl") == [
        {"epoch": 1, "step": 1},
        {"epoch": 1, "step": 2},
        {"epoch": 2, "step": 3},
    ]
    assert lines_of(config, "metrics.jsonl") == [METRICS]


def test_every_number_of_an_epoch_goes_to_tensorboard(config):
    follow(config, EVENTS, anew=True)
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    scalars = loader.EventAccumulator(str(config.run_path / "log"))
    scalars.Reload()
    tags = scalars.Tags()["scalars"]
    assert {"loss", "valid_mrr", "phases/plan", "phases/more/gather"} <= set(tags)
    (point,) = scalars.Scalars("phases/more/gather")
    assert (point.step, point.value) == (1, 0.25)


def test_a_training_that_continues_continues_its_log_and_another_does_not(config):
    follow(config, EVENTS, anew=True)
    follow(config, EVENTS[-1:], anew=False)
    assert [line["step"] for line in lines_of(config, "steps.jsonl")] == [1, 2, 3, 3]
    follow(config, EVENTS[:1], anew=True)
    assert [line["step"] for line in lines_of(config, "steps.jsonl")] == [1]
    assert not (config.run_path / "log" / "metrics.jsonl").exists()


def test_a_file_in_place_of_the_folder_is_refused(config):
    config.run_path.mkdir()
    (config.run_path / "log").write_text("mine")
    with pytest.raises(ArtifactError, match="log is a file"):
        follow(config, EVENTS, anew=True)
    assert (config.run_path / "log").read_text() == "mine"
