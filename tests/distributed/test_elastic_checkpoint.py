"""Training goes on with another number of ranks, to the same end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import NAMES, NUM_SNAPSHOTS, graph_of, random_facts, random_features, tiny_config, write_graph
from runs import train_run

from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import ArtifactError, GamKGError
from gam_kg.graph.name_words import NameWords
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.training import checkpoint
from gam_kg.training.run import LocalCheckpoints
from gam_kg.training.trainer import Trainer

SETTINGS = {
    "model": {"dropout": 0.3, "entity_dropout": 0.3, "relation_dropout": 0.3},
    "epochs": 3,
    "answers_per_step": 10,
}


def trainer_of(communicator: Communicator) -> Trainer:
    graph = graph_of(random_facts(3, 100)).shard(communicator.rank, communicator.world_size)
    return Trainer(tiny_config(**SETTINGS), graph, NameWords.of(NAMES), communicator=communicator)


def train(
    communicator: Communicator, source: Path | None, target: Path | None, snapshots: int | None
) -> dict[str, Any]:
    """Go on from a checkpoint for some snapshots (None: to the end), and write another."""
    torch.set_default_dtype(torch.float64)
    try:
        trainer = trainer_of(communicator)
        if source is not None:
            checkpoint.load(trainer, source)
        steps = (step for step in trainer.run() if step.phase == "train")
        for _ in range(snapshots) if snapshots else iter(lambda: next(steps, None), None):
            if snapshots:
                next(steps)
        if target is not None:
            checkpoint.save(trainer, target)
        names = ("epoch", "step", "loss", "valid_mrr", "valid_hits@3")
        best = {**trainer.best_weights, **trainer.best_optimizer_state}
        return {
            "weights": {**trainer.model.state_dict(), **{f"best {name}": value for name, value in best.items()}},
            "metrics": [[epoch[name] for name in names] for epoch in trainer.position.metrics],
        }
    finally:
        torch.set_default_dtype(torch.float32)


def test_two_three_and_one_rank_end_where_one_rank_does(rank_pool, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    rank_pool.run(2, train, None, first, 3)
    rank_pool.run(3, train, first, second, 4)
    assert len(list(second.glob("entities-*-of-00003.safetensors"))) == 3
    found, expected = train(Communicator(), second, None, None), train(Communicator(), None, None, None)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, rtol=1e-9, atol=1e-9, msg=name)
    torch.testing.assert_close(torch.tensor(found["metrics"]), torch.tensor(expected["metrics"]), rtol=1e-9, atol=0)
    assert len(found["metrics"]) == 3


def test_a_checkpoint_that_lacks_a_rank_is_refused(rank_pool, tmp_path: Path) -> None:
    rank_pool.run(3, train, None, tmp_path, 2)
    next(tmp_path.glob("training-00001-of-*")).unlink()
    with pytest.raises(ArtifactError, match="incomplete"):
        train(Communicator(), tmp_path, None, 1)


def vectors_of(communicator: Communicator, run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and vectors of a rank's entities after all facts."""
    loaded = TrainedRun.load(run, communicator=communicator)
    return loaded.graph.partition.ids, loaded.sharded.entity_vectors(loaded.memory_before(NUM_SNAPSHOTS)).detach()


def test_any_number_of_ranks_reads_the_features_of_its_entities(rank_pool, tmp_path: Path) -> None:
    for name, features in (("with", random_features()), ("without", None)):
        graph = graph_of(random_facts(3, 100), buckets=3)
        write_graph(tmp_path / name / "graph", graph, buckets=3, names=NAMES, features=features)
        train_run(tmp_path / name, tiny_config(epochs=1))
    _, expected = vectors_of(Communicator(), tmp_path / "with")
    for world_size in (2, 3):
        ids, found = (
            torch.cat(part) for part in zip(*rank_pool.run(world_size, vectors_of, tmp_path / "with"), strict=True)
        )
        torch.testing.assert_close(found, expected[ids], rtol=1e-5, atol=1e-6)
    (tmp_path / "with" / "graph" / "entity_features.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"entity_features.parquet was changed or damaged"):
        vectors_of(Communicator(), tmp_path / "with")
    _, other = vectors_of(Communicator(), tmp_path / "without")
    assert (other - expected).abs().max() > 0.01


def keep_and_find(communicator: Communicator, folder: Path) -> list[str]:
    checkpoints = LocalCheckpoints(folder, communicator)
    for text in ("one", "two"):
        checkpoints.save(lambda where, text=text: (where / f"{communicator.rank}").write_text(text), {})
    latest = checkpoints.latest()
    assert latest is not None
    return sorted(path.name + " " + path.read_text() for path in latest.iterdir())


def test_a_kept_checkpoint_has_the_parts_of_all_ranks(rank_pool, tmp_path: Path) -> None:
    assert rank_pool.run(3, keep_and_find, tmp_path) == [["0 two", "1 two", "2 two"]] * 3


def test_a_checkpoint_between_its_two_names_is_found(tmp_path: Path) -> None:
    checkpoints = LocalCheckpoints(tmp_path, Communicator())
    checkpoints.save(lambda where: (where / "part").write_text("whole") and None, {})
    checkpoints.path.rename(tmp_path / "old")
    (tmp_path / "incoming").mkdir()
    latest = LocalCheckpoints(tmp_path, Communicator()).latest()
    assert latest is not None
    assert (latest / "part").read_text() == "whole"


def errors_of_damage(communicator: Communicator, folder: Path, run: Path) -> list[str]:
    """What a rank says of a training checkpoint, and of a run; "" if nothing."""
    found = []
    for work in (
        lambda: checkpoint.require_undamaged(folder, communicator),
        lambda: TrainedRun.load(run, communicator=communicator).memory_before(NUM_SNAPSHOTS),
    ):
        try:
            work()
            found.append("")
        except GamKGError as error:
            found.append(str(error))
        communicator.barrier()
    return found


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_end_where_one_finds_damage(rank_pool, tmp_path: Path, rank: int) -> None:
    run = tmp_path / "run"
    write_graph(run / "graph", graph_of(random_facts(3, 100), buckets=3), buckets=3)
    train_run(run, tiny_config(epochs=1))
    folder = run / "training" / "checkpoint"
    assert rank_pool.run(2, errors_of_damage, folder, run) == [["", ""]] * 2
    # Files are shared out in the order of their names: each rank looks at every second one.
    damage(sorted(folder.glob("*.safetensors"))[rank])
    found = rank_pool.run(2, errors_of_damage, folder, run)
    assert "was changed or damaged" in found[rank][0]
    assert found[1 - rank][0] == "another rank has failed; its message says why"
    damage(sorted((run / "checkpoint").glob("*.safetensors"))[0])
    assert all(one[1] for one in rank_pool.run(2, errors_of_damage, folder, run))
