import json

import pytest
import torch
from graphs import NAMES, graph_of, random_facts, tiny_config
from safetensors.torch import load_file

from gam_kg.data.names import NameWords
from gam_kg.errors import ArtifactError
from gam_kg.train import checkpoint
from gam_kg.train.loop import Trainer

MODEL = {"dropout": 0.2, "entity_dropout": 0.4}
TRAIN = {"epochs": 3, "patience": 3, "answers_per_step": 8, "learning_rate": 0.01}
NOT_RESULTS = ("seconds", "facts_per_second", "peak_memory_bytes")


def new_trainer(model=None, seed=0):
    config = tiny_config({**MODEL, **(model or {})}, **TRAIN).model_copy(update={"seed": seed})
    return Trainer(config, graph_of(random_facts(0)), NameWords.of(NAMES) if config.model.name_words else None)


def stopped(after):
    """A training that stopped after some of its yields."""
    trainer = new_trainer()
    run = trainer.run()
    for _ in range(after):
        next(run)
    return trainer


def results(trainer):
    position = trainer.state()
    del position["seconds"]
    position["metrics"] = [
        {name: value for name, value in epoch.items() if name not in NOT_RESULTS} for epoch in position["metrics"]
    ]
    return position


def assert_same(found, expected):
    assert results(found) == results(expected)
    states = [
        (found.model.state_dict(), expected.model.state_dict()),
        (found.best_weights, expected.best_weights),
        (vars(found.memory), vars(expected.memory)),
    ]
    for mine, theirs in states:
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert torch.equal(mine[name], value), name
    mine, theirs = (trainer.optimizer.state_dict()["state"] for trainer in (found, expected))
    assert mine.keys() == theirs.keys()
    for index, values in theirs.items():
        assert all(torch.equal(mine[index][name], value) for name, value in values.items())


@pytest.fixture(scope="module")
def uninterrupted():
    trainer = new_trainer()
    list(trainer.run())
    assert trainer.position.epoch == 3
    return trainer


# An epoch is five snapshots, the start of validation and its end.
@pytest.mark.parametrize("after", [0, 1, 4, 5, 6, 7, 8, 12, 14, 18, 21])
def test_resumed_training_ends_as_if_never_interrupted(tmp_path, uninterrupted, after):
    checkpoint.save(stopped(after), tmp_path)
    torch.manual_seed(999)
    resumed = new_trainer()
    checkpoint.load(resumed, tmp_path)
    assert_same(resumed, stopped(after))
    list(resumed.run())
    assert_same(resumed, uninterrupted)


def test_training_may_be_interrupted_more_than_once(tmp_path, uninterrupted):
    trainer = new_trainer()
    for number, snapshots in enumerate((3, 1, 5, 2)):
        run = trainer.run()
        for _ in range(snapshots):
            next(run)
        folder = tmp_path / str(number)
        folder.mkdir()
        checkpoint.save(trainer, folder)
        trainer = new_trainer()
        checkpoint.load(trainer, folder)
    list(trainer.run())
    assert_same(trainer, uninterrupted)


def test_a_checkpoint_is_loaded_without_pickles(tmp_path):
    checkpoint.save(stopped(8), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".pt", ".json"}
    (training,) = tmp_path.glob("training-*.pt")
    state = torch.load(training, weights_only=True)
    assert state.keys() == {"optimizer", "memory"}
    json.loads((tmp_path / "position.json").read_text())
    for path in tmp_path.glob("*.safetensors"):
        load_file(path)


def test_loading_never_unpickles(tmp_path):
    trainer = stopped(2)
    checkpoint.save(trainer, tmp_path)
    (training,) = tmp_path.glob("training-*.pt")
    torch.save({"optimizer": trainer, "memory": {}}, training)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        checkpoint.load(new_trainer(), tmp_path)


def test_weights_come_back_bit_for_bit(tmp_path):
    weights = stopped(3).model.state_dict()
    checkpoint.save_weights(weights, tmp_path)
    checkpoint.save_weights({name: value + 1 for name, value in weights.items()}, tmp_path, prefix="best-")
    found, best = checkpoint.load_weights(tmp_path), checkpoint.load_weights(tmp_path, prefix="best-")
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(found[name], value)
        assert torch.equal(best[name], value + 1)


def test_entity_rows_may_be_stored_in_several_files_in_any_order(tmp_path):
    from safetensors.torch import save_file

    weights = stopped(1).model.state_dict()
    checkpoint.save_weights(weights, tmp_path)
    for path in tmp_path.glob("entities-*"):
        path.unlink()
    for shard in range(3):
        ids = torch.arange(shard, len(weights["entity"]), 3)
        rows = {"entity": weights["entity"][ids].contiguous(), "entity_id": ids}
        save_file(rows, tmp_path / f"entities-{shard:05d}-of-00003.safetensors")
    assert torch.equal(checkpoint.load_weights(tmp_path)["entity"], weights["entity"])


@pytest.mark.parametrize(
    ("model", "named"),
    [({"dim": 8}, "entity"), ({"decoder": "distmult"}, r"decoder\.scale"), ({"name_words": False}, "word")],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, model, named):
    checkpoint.save(stopped(1), tmp_path)
    with pytest.raises(ArtifactError, match=rf"another model.*{named}"):
        checkpoint.load(new_trainer(model), tmp_path)


@pytest.mark.parametrize(
    "missing",
    ["model.safetensors", "entities-00000-of-00001.safetensors", "training-00000-of-00001.pt", "position.json"],
)
def test_an_incomplete_checkpoint_is_refused(tmp_path, missing):
    checkpoint.save(stopped(1), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ArtifactError, match="checkpoint"):
        checkpoint.load(new_trainer(), tmp_path)
