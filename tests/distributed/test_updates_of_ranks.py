"""Ranks read a run with updates as one process does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from graphs import queries_of, tiny_config
from runs import train_run
from torch import Tensor
from updates import END, LAST, SIZES, add_updates, divided_facts, write_prepared, write_whole

from gam_kg.artifacts import read_manifest
from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import GamKGError
from gam_kg.graph.temporal_graph import TemporalGraph
from gam_kg.inference.trained_run import TrainedRun

NUM_ENTITIES, NUM_RELATIONS = SIZES[-1]


def found_by(communicator: Communicator, run: Path, whole: Path | None) -> dict[str, Tensor]:
    """Ids of a rank's entities, and their memory and scores at several times; of the `whole` graph if there is one."""
    loaded = TrainedRun.load(run, communicator=communicator)
    if whole is not None:
        share = {"rank": communicator.rank, "world_size": communicator.world_size}
        loaded = replace(loaded, graph=TemporalGraph.load(whole, **share)[0], updates=())
    loaded.model.double()
    pairs = [(s, r) for s in range(NUM_ENTITIES) for r in range(2 * NUM_RELATIONS)]
    found = {"ids": loaded.graph.partition.ids}
    for time in (END - 3, END, LAST):
        scorer = loaded.scorer_before(time)
        found[f"scores {time}"] = scorer.table(queries_of(pairs, time)).T
        found |= {f"{name} {time}": value for name, value in vars(scorer.memory).items()}
    return found


def error_of(communicator: Communicator, run: Path) -> str:
    """What a rank says of a run that it cannot open."""
    try:
        TrainedRun.load(run, communicator=communicator)
    except GamKGError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with three updates, late facts among them, and the graph that has everything."""
    folder, divided = tmp_path_factory.mktemp("runs"), divided_facts(4)
    run, whole = folder / "run", folder / "whole"
    write_prepared(run, divided)
    train_run(run, tiny_config(epochs=1))
    add_updates(run, divided, read_manifest(run / "checkpoint", "checkpoint"))
    write_whole(whole, divided)
    return run, whole / "graph"


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_have_the_memory_and_the_scores_of_the_whole_graph(rank_pool, runs, world_size: int) -> None:
    run, whole = runs
    expected = found_by(Communicator(), run, whole)
    parts = rank_pool.run(world_size, found_by, run, None)
    ids = torch.cat([part.pop("ids") for part in parts])
    assert sorted(ids.tolist()) == list(range(NUM_ENTITIES))
    for name in parts[0]:
        found = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(found, expected[name][ids], rtol=1e-10, atol=1e-10, msg=name)


def test_all_ranks_end_where_an_update_is_missing(rank_pool, runs, tmp_path: Path) -> None:
    (tmp_path / "updates").mkdir()
    for name in ("graph", "checkpoint", "updates/000001", "updates/000003"):
        (tmp_path / name).symlink_to(runs[0] / name)
    assert all("000002 is missing" in error for error in rank_pool.run(2, error_of, tmp_path))
