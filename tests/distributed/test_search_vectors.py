"""Search vectors are the same on any number of ranks, and every rank has the same search space."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, write_graph
from runs import train_run

from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import GamKGError
from gam_kg.inference.embed import read_vectors, write_embeddings
from gam_kg.inference.similarity import SearchSpace
from gam_kg.inference.trained_run import TrainedRun

LAST = 3
FACTS = {"all ranks": random_facts(3, 100), "two entities": np.array([(0, t % 3, 1, t) for t in range(8)])}


def spaces_and_files(communicator: Communicator, run: Path, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The rank's search space in double precision; its part of the embeddings is in the folder."""
    loaded = TrainedRun.load(run, communicator=communicator)
    write_embeddings(loaded, LAST, folder)
    loaded.model.double()
    space = SearchSpace.after(loaded, loaded.memory_before(LAST + 1))
    return space.mean, space.whitening


def search_vectors(folder: Path) -> np.ndarray:
    """The search vectors of all files, by id."""
    files = sorted(folder.glob("entities*.parquet"))
    ids = np.concatenate([pq.read_table(file)["entity_id"].to_numpy() for file in files])
    return np.concatenate([read_vectors(file, "search_vector") for file in files])[np.argsort(ids)]


def error_of(communicator: Communicator, run: Path) -> str:
    """What a rank says where an entity of rank 1 has a vector that is not finite."""
    loaded = TrainedRun.load(run, communicator=communicator)
    memory = loaded.memory_before(LAST + 1)
    if communicator.rank == 1:
        memory.hidden[0] = torch.nan
    with pytest.raises(GamKGError) as caught:
        SearchSpace.after(loaded, memory)
    return str(caught.value)


def test_all_ranks_end_where_one_has_a_vector_that_is_not_finite(rank_pool, tmp_path: Path) -> None:
    write_graph(tmp_path / "graph", graph_of(FACTS["all ranks"], buckets=2), buckets=2)
    train_run(tmp_path, tiny_config(epochs=1))
    found = rank_pool.run(2, error_of, tmp_path)
    assert found[0] == "another rank has failed; its message says why"
    assert "vectors of the entities" in found[1]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("case", FACTS)
def test_search_vectors_are_those_of_one_rank(rank_pool, tmp_path: Path, case: str, world_size: int) -> None:
    run = tmp_path / "run"
    write_graph(run / "graph", graph_of(FACTS[case], buckets=2), buckets=2)  # a third rank has no entities
    train_run(run, tiny_config(epochs=1))
    one, several = tmp_path / "one", tmp_path / "several"
    one.mkdir()
    several.mkdir()
    expected = spaces_and_files(Communicator(), run, one)
    found = rank_pool.run(world_size, spaces_and_files, run, several)
    for mean, whitening in found:
        assert torch.equal(mean, found[0][0])
        assert torch.equal(whitening, found[0][1])
        torch.testing.assert_close(mean, expected[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(whitening, expected[1], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(search_vectors(several), search_vectors(one), rtol=0, atol=1e-4)
