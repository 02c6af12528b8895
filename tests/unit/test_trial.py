"""A trial of a search: its epochs are those of a training, whatever interrupts it, and test facts play no part."""

import numpy as np
import pytest
from graphs import TEST_START, graph_of, periodic_facts, random_facts, tiny_config, write_graph

from gam_kg.errors import ArtifactError, ConfigError
from gam_kg.training.run import LocalCheckpoints
from pipelines.trial import FAILED, FINISHED, STOPPED, UNFINISHED, Record, train_trial

CONFIG = tiny_config(epochs=3, patience=3, learning_rate=0.03, threads=1)


class StoppedError(Exception):
    """Raised in a test's report."""


def write(folder, facts):
    write_graph(folder / "graph", graph_of(facts, buckets=2), buckets=2)
    return folder / "graph"


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return write(tmp_path_factory.mktemp("graph"), random_facts(3, 120))


def trained(graph, folder, config=CONFIG):
    """The epochs that a trial reports, without their times."""
    found = []
    train_trial(config, graph, folder, found.append)
    return [(epoch["epoch"], epoch["valid_mrr"], epoch["is_new"]) for epoch in found]


@pytest.fixture(scope="module")
def whole(graph, tmp_path_factory):
    """The epochs of a trial that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    found = trained(graph, folder)
    assert [(epoch, is_new) for epoch, _, is_new in found] == [(1, True), (2, True), (3, True)]
    record = Record.read(folder)
    assert record.status == FINISHED
    assert [(epoch["epoch"], epoch["valid_mrr"]) for epoch in record.epochs] == [row[:2] for row in found]
    assert not (folder / "checkpoint").exists()
    return found


def test_an_interrupted_trial_goes_on_as_if_nothing_had_been(graph, whole, tmp_path):
    def report(epoch):
        if epoch["epoch"] == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_trial(CONFIG, graph, tmp_path, report)
    assert Record.read(tmp_path).status == UNFINISHED
    again = trained(graph, tmp_path)
    assert again == [(epoch, mrr, epoch > 2) for epoch, mrr, _ in whole]


def test_an_epoch_whose_checkpoint_was_lost_is_trained_again_and_reported_once(graph, whole, tmp_path, monkeypatch):
    save, calls = LocalCheckpoints.save, []

    def fail_once(self, write, metrics):
        calls.append(metrics["epoch"])
        if calls == [1, 2]:
            raise StoppedError
        save(self, write, metrics)

    monkeypatch.setattr(LocalCheckpoints, "save", fail_once)
    with pytest.raises(StoppedError):
        trained(graph, tmp_path)
    assert trained(graph, tmp_path) == [(epoch, mrr, epoch > 2) for epoch, mrr, _ in whole]
    assert calls == [1, 2, 2, 3]


def test_a_trial_that_has_ended_only_reports_what_it_has(graph, whole, tmp_path):
    record = Record(epochs=[{"epoch": 1, "valid_mrr": 0.25, "seconds": 1.0}])
    (tmp_path / "checkpoint").mkdir()
    record.end(tmp_path, STOPPED)
    assert not (tmp_path / "checkpoint").exists()
    assert trained(graph, tmp_path) == [(1, 0.25, False)]
    assert Record.read(tmp_path) == record


def test_test_facts_play_no_part(whole, tmp_path):
    facts = random_facts(3, 120)
    others = periodic_facts()
    facts = np.concatenate([facts[facts[:, 3] < TEST_START], others[others[:, 3] >= TEST_START]])
    found = trained(write(tmp_path, facts), tmp_path / "trial")
    assert [row[:2] for row in found] == [row[:2] for row in whole]


def test_settings_with_which_training_fails_are_a_result(graph, tmp_path):
    assert trained(graph, tmp_path, CONFIG.changed({"train.learning_rate": 1e30})) == []
    record = Record.read(tmp_path)
    assert record.status == FAILED
    assert "lower train.learning_rate" in record.error
    assert record.best() is None


def test_a_damaged_graph_ends_the_search(graph, tmp_path):
    with pytest.raises(ArtifactError):
        trained(tmp_path / "nowhere", tmp_path)
    assert Record.read(tmp_path).status == UNFINISHED


@pytest.mark.parametrize("text", ['{"stat', '{"other": 1}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"record.json is damaged; remove .*, and its trial is trained anew"):
        Record.read(tmp_path)


def test_settings_that_this_machine_cannot_train_with_are_no_result(graph, whole, tmp_path):
    """A search that goes on where they can be trained with trains this trial."""
    with pytest.raises(ConfigError, match=r"train\.precision=tf32"):
        trained(graph, tmp_path, CONFIG.changed({"train.precision": "tf32"}))
    assert Record.read(tmp_path).status == UNFINISHED
    assert trained(graph, tmp_path) == whole
