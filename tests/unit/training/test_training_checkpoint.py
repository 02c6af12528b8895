import json
import pickle
from dataclasses import asdict

import pytest
import torch
from graphs import NAMES, NUM_ENTITIES, graph_of, random_facts, tiny_config
from safetensors.torch import load_file, save_file

from gam_kg.errors import ArtifactError
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.partition import Partition
from gam_kg.training import checkpoint
from gam_kg.training.trainer import Trainer

MODEL = {"dropout": 0.2, "entity_dropout": 0.4, "relation_dropout": 0.4}
TRAIN = {"epochs": 3, "patience": 3, "answers_per_step": 8, "learning_rate": 0.01, "max_horizon": 3, "ahead_share": 0.5}
NOT_RESULTS = ("seconds", "facts_per_second", "peak_memory_bytes", "phases", "traffic")
FILES = [
    "model.safetensors",
    "optimizer.safetensors",
    "entities-00000-of-00001.safetensors",
    "optimizer-00000-of-00001.safetensors",
    "training-00000-of-00001.safetensors",
]
TIMINGS = ("seconds", "spent", "traffic")


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
    position = {name: value for name, value in asdict(trainer.position).items() if name not in TIMINGS}
    position["metrics"] = [
        {name: value for name, value in epoch.items() if name not in NOT_RESULTS} for epoch in position["metrics"]
    ]
    return position


def assert_same(found, expected):
    assert results(found) == results(expected)
    states = [
        (found.model.state_dict(), expected.model.state_dict()),
        (found.best_weights, expected.best_weights),
        (found.best_optimizer_state, expected.best_optimizer_state),
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
    assert trainer.model.relation_slope.any()  # it looked ahead
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


def test_the_optimizer_state_of_the_best_epoch_is_the_one_after_it(tmp_path):
    trainer, after_epoch = new_trainer(), {}
    for event in trainer.run():
        if event.metrics:
            after_epoch[event.epoch] = {name: value.clone() for name, value in trainer.optimizer_state.items()}
    assert trainer.position.best_epoch < trainer.position.epoch  # else the last one would pass
    checkpoint.save(trainer, tmp_path)
    found = checkpoint.load_optimizer_state(tmp_path, Partition(NUM_ENTITIES), prefix="best-")
    expected = after_epoch[trainer.position.best_epoch]
    assert found.keys() == expected.keys()
    assert {f"entity.{name}" for name in ("step", "exp_avg", "exp_avg_sq")} <= found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


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
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    json.loads((tmp_path / "position.json").read_text())
    for path in tmp_path.glob("*.safetensors"):
        load_file(path)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("dump", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))])
def test_loading_never_unpickles(tmp_path, file, dump):
    folder, trace = tmp_path / "checkpoint", tmp_path / "trace"
    folder.mkdir()
    checkpoint.save(stopped(2), folder)
    dump(Trap(trace), folder / file)
    with pytest.raises(ArtifactError, match="incomplete"):
        checkpoint.load(new_trainer(), folder)
    assert not trace.exists()


def test_weights_come_back_bit_for_bit(tmp_path):
    weights, whole = stopped(3).model.state_dict(), Partition(NUM_ENTITIES)
    checkpoint.save_weights(weights, tmp_path, whole)
    checkpoint.save_weights({name: value + 1 for name, value in weights.items()}, tmp_path, whole, prefix="best-")
    found, best = (checkpoint.load_weights(tmp_path, whole, prefix) for prefix in ("", "best-"))
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(found[name], value)
        assert torch.equal(best[name], value + 1)


def test_entity_rows_may_be_stored_in_several_files_in_any_order(tmp_path):
    weights, whole = stopped(1).model.state_dict(), Partition(NUM_ENTITIES)
    checkpoint.save_weights(weights, tmp_path, whole)
    for path in tmp_path.glob("entities-*"):
        path.unlink()
    for shard in range(3):
        ids = torch.arange(shard, len(weights["entity"]), 3)
        rows = {"entity": weights["entity"][ids].contiguous(), "entity_id": ids}
        save_file(rows, tmp_path / f"entities-{shard:05d}-of-00003.safetensors")
    assert torch.equal(checkpoint.load_weights(tmp_path, whole)["entity"], weights["entity"])


@pytest.mark.parametrize("writers", [1, 2, 3])
@pytest.mark.parametrize("readers", [1, 2, 4])
def test_weights_written_by_some_ranks_are_read_by_others(tmp_path, writers, readers):
    weights = stopped(1).model.state_dict()
    for rank in range(writers):
        part = Partition(NUM_ENTITIES, 5, rank, writers)
        checkpoint.save_weights({**weights, "entity": weights["entity"][part.ids]}, tmp_path, part)
    for rank in range(readers):
        part = Partition(NUM_ENTITIES, 3, rank, readers)
        found = checkpoint.load_weights(tmp_path, part)
        assert found.keys() == weights.keys()
        for name, value in weights.items():
            assert torch.equal(found[name], value[part.ids] if name == "entity" else value)


def test_rows_of_different_saves_are_refused_together(tmp_path):
    weights = stopped(1).model.state_dict()
    for world_size in (1, 2):
        part = Partition(NUM_ENTITIES, world_size=world_size)
        checkpoint.save_weights({**weights, "entity": weights["entity"][part.ids]}, tmp_path, part)
    with pytest.raises(ArtifactError, match="incomplete"):
        checkpoint.load_weights(tmp_path, Partition(NUM_ENTITIES))


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
    [*FILES, "position.json"],
)
def test_an_incomplete_checkpoint_is_refused(tmp_path, missing):
    checkpoint.save(stopped(1), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ArtifactError, match="checkpoint"):
        checkpoint.load(new_trainer(), tmp_path)


def test_a_file_without_a_digest_is_refused(tmp_path):
    trainer = stopped(8)
    checkpoint.save(trainer, tmp_path)
    checkpoint.seal(tmp_path, trainer.model.partition)
    checkpoint.require_undamaged(tmp_path)
    digests = tmp_path / "digests-00000-of-00001.json"
    for name, values in json.loads(digests.read_text()).items():
        described = json.loads(digests.read_text())
        digests.write_text(json.dumps({other: one for other, one in described.items() if other != name}))
        with pytest.raises(ArtifactError, match=f"{name}.*no digest"):
            checkpoint.require_undamaged(tmp_path)
        digests.write_text(json.dumps(described | {name: values}))
    checkpoint.require_undamaged(tmp_path)
    for contents in ("[]", "{}", "null", "1", '{"model.safetensors": 1}', "[[1, 2]]", "{", '{"\\u0000": {}}'):
        digests.write_text(contents)
        with pytest.raises(ArtifactError, match="--force"):
            checkpoint.require_undamaged(tmp_path)
