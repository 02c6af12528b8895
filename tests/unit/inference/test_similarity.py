"""Vectors for similarity search: what whitening does to the covariance, what it depends on, and that search uses it."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from graphs import graph_of, random_facts, tiny_config, write_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import train_run
from torch.nn import functional

from gam_kg.inference.embed import read_vectors, write_embeddings
from gam_kg.inference.search import nearest_entities
from gam_kg.inference.similarity import SHRINKAGE, SearchSpace, moments_of
from gam_kg.inference.trained_run import TrainedRun

# Entity 9 comes last of all.
FACTS = np.array([fact for fact in random_facts(1, 150) if 9 not in fact[[0, 2]]] + [(9, 0, 1, 7), (1, 2, 9, 7)])
DIM = 5
seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_graph(folder / "graph", graph_of(FACTS, buckets=3), buckets=3)
    train_run(folder, tiny_config(epochs=1))
    return TrainedRun.load(folder)


def random_vectors(seed, count=40, spread=0.2):
    """Vectors of length 1 around a common one, spread unevenly."""
    rng = torch.Generator().manual_seed(seed)
    common, scale = (torch.randn(DIM, generator=rng, dtype=torch.float64) for _ in range(2))
    noise = torch.randn(count, DIM, generator=rng, dtype=torch.float64)
    return functional.normalize(common + spread * scale * noise, dim=1)


def covariance(vectors):
    return torch.cov(vectors.T, correction=0)


@given(seeds)
def test_fully_whitened_vectors_have_covariance_one(seed):
    vectors = random_vectors(seed)
    space = SearchSpace.of(moments_of(vectors), shrinkage=0)
    whitened = (vectors - space.mean) @ space.whitening
    torch.testing.assert_close(covariance(whitened), torch.eye(DIM, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(whitened.mean(0), torch.zeros(DIM, dtype=torch.float64), rtol=0, atol=1e-6)


@given(seeds)
def test_shrunk_whitening_brings_variances_nearer_to_each_other_and_keeps_their_order(seed):
    vectors = random_vectors(seed)
    variance, axes = torch.linalg.eigh(covariance(vectors))
    space = SearchSpace.of(moments_of(vectors))
    expected = variance / ((1 - SHRINKAGE) * variance + SHRINKAGE * variance.mean())
    whitened = (vectors - vectors.mean(0)) @ space.whitening
    torch.testing.assert_close((axes.T @ covariance(whitened) @ axes).diag(), expected)
    assert expected.max() / expected.min() < variance.max() / variance.min()


@given(seeds)
def test_a_rotation_of_all_vectors_rotates_the_search_vectors(seed):
    vectors = random_vectors(seed)
    turn, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(seed)).double())
    turned = vectors @ turn
    found = SearchSpace.of(moments_of(turned))(turned)
    torch.testing.assert_close(found, SearchSpace.of(moments_of(vectors))(vectors) @ turn, rtol=0, atol=1e-8)


@given(seeds, st.integers(2, DIM))
@settings(max_examples=20)
def test_fewer_entities_than_dimensions_have_finite_vectors_of_length_one(seed, count):
    vectors = random_vectors(seed, count).float()
    found = SearchSpace.of(moments_of(vectors))(vectors)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(count))
    if count == 2:
        torch.testing.assert_close(found[0], -found[1])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_nothing_tells_from_the_mean_has_a_zero_vector_and_others_do_not(count):
    one, other = torch.tensor([[0.6, 0.48, 0.64]]), torch.tensor([[0.0, 1.0, 0.0]])
    space = SearchSpace.of(moments_of(one.expand(count, 3)))
    if count:
        assert (space(one) == 0).all()
    torch.testing.assert_close(space(other).norm(dim=1), torch.ones(1))


def exported(run, last, folder):
    folder.mkdir()
    write_embeddings(run, last, folder)
    file = folder / "entities.parquet"
    seen = pq.read_table(file)["last_seen_snapshot"].is_valid().to_numpy()
    return read_vectors(file).astype(np.float64), read_vectors(file, "search_vector"), seen


def by_hand(vectors, seen):
    """Search vectors in NumPy."""
    centred = vectors - vectors[seen].mean(0)
    variance, axes = np.linalg.eigh(np.cov(vectors[seen].T, bias=True))
    shrunk = (1 - SHRINKAGE) * variance + SHRINKAGE * variance.mean()
    found = centred @ axes @ np.diag(shrunk**-0.5) @ axes.T
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("last", [1, 4, 7])
def test_exported_search_vectors_are_centred_at_the_entities_seen_so_far(run, tmp_path, last):
    vectors, found, seen = exported(run, last, tmp_path / "embeddings")
    assert seen.sum() == len(set(FACTS[FACTS[:, 3] <= last][:, [0, 2]].ravel()))
    assert seen[9] == (last == 7)
    np.testing.assert_allclose(found, by_hand(vectors, seen), rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("at", [None, "3"])
def test_the_nearest_entities_have_the_most_similar_search_vectors(run, tmp_path, at):
    _, vectors, _ = exported(run, 7 if at is None else int(at), tmp_path / "embeddings")
    for entity in range(len(vectors)):
        cosine = vectors @ vectors[entity]
        found = nearest_entities(run, f"entity {entity}", at, top_k=20).to_pydict()
        assert sorted(found["entity_id"]) == [other for other in range(len(vectors)) if other != entity]
        np.testing.assert_allclose(found["cosine"], cosine[found["entity_id"]], rtol=0, atol=1e-4)
        assert found["cosine"] == sorted(found["cosine"], reverse=True)


def test_later_facts_change_no_search_vector(run, tmp_path):
    earlier = replace(run, graph=run.graph.before(4))
    _, now, _ = exported(run, 3, tmp_path / "now")
    _, then, _ = exported(earlier, 3, tmp_path / "then")
    np.testing.assert_allclose(now, then, rtol=0, atol=1e-6)
