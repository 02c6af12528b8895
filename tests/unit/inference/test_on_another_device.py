"""On another device than the CPU a finished run gives the same ranks, vectors, answers and reasons.

The other device is a GPU, or where there is none one that is made up of the CPU; see `other_device`.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flows import SMALL, write_facts
from other_device import other_device

from gam_kg.api_train import train
from gam_kg.config import EvaluateConfig
from gam_kg.history.index import HistoryIndex
from gam_kg.inference import embed
from gam_kg.inference.answers import answer_queries
from gam_kg.inference.embed import write_embeddings
from gam_kg.inference.evaluation import evaluate_run
from gam_kg.inference.explain import explain
from gam_kg.inference.fact_ranks import rank_facts
from gam_kg.inference.memory_attention import memory_attention
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.report_examples import map_entities
from gam_kg.inference.search import nearest_entities
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.inference.update import advance_run
from gam_kg.training import evaluate
from gam_kg.training.calibration import fit_temperatures
from gam_kg.training.evaluate import ModelScorer, validate

SETTINGS = dict(one.split("=") for one in SMALL if "num_workers" not in one) | {"train.epochs": 1}
GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    write_facts(folder / "facts.parquet", num_days=12)
    return train(folder / "facts.parquet", run_dir=folder / "run", progress=False, **SETTINGS).path


def opened(path: Path, device: torch.device | str) -> TrainedRun:
    """The run in double precision, so that rounding decides no comparison."""
    run = TrainedRun.load(path, device, verified=True)
    run.model.double()
    return run


@pytest.fixture(params=["made up", GPU])
def device(request, monkeypatch) -> Iterator[torch.device]:
    """A device that is not the CPU."""
    with nullcontext(torch.device("cuda")) if request.param == "cuda" else other_device() as device:
        if request.param != "cuda":
            monkeypatch.setattr(embed, "read_ahead", lambda items, _: items)  # another thread would not have the device
        yield device


def queries_of(run: TrainedRun) -> EncodedQueries:
    """Queries about several snapshots, of both directions."""
    number, end = np.arange(24), run.graph.end
    return EncodedQueries(number % 5, number % (2 * len(run.relations)), end + number % 3 - 2)


def embeddings(run: TrainedRun, folder: Path) -> list[pa.Table]:
    folder.mkdir()
    write_embeddings(run, run.graph.end - 1, folder)
    return [pq.read_table(folder / f"{kind}.parquet") for kind in ("entities", "relations")]


def answers(run: TrainedRun, among: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return vars(answer_queries(run, queries_of(run), 4, among=among))


def explained(run: TrainedRun) -> list[dict[str, Any]]:
    queries = queries_of(run)
    return [one.to_dict() for one in explain(run, queries, np.arange(len(queries)) % len(run.entities))]


def advanced(run: TrainedRun) -> list[Any]:
    end = run.graph.end
    found = advance_run(run, end - 3, end - 2, 10_000, with_baselines=True)
    return [found.scores, found.memory.hidden.cpu().numpy(), found.memory.last_seen.cpu().numpy()]


def temperatures(run: TrainedRun) -> dict[str, float]:
    return fit_temperatures(ModelScorer(run.sharded, HistoryIndex(run.graph, run.model.config.history)), run.graph)


def validated(run: TrainedRun) -> dict[str, float]:
    history = HistoryIndex(run.graph, run.model.config.history)
    for snapshot in run.graph.read(run.graph.times_in("train")):
        history.insert(snapshot)
    return validate(run.sharded, run.graph, history, max_scores=500)


def evaluated(run: TrainedRun) -> list[Any]:
    found = evaluate_run(run, EvaluateConfig())
    return [found.ranks, found.metrics]


WORK: dict[str, Callable[[TrainedRun, Path], Any]] = {
    "evaluation": lambda run, _: evaluated(run),
    "embeddings": lambda run, folder: embeddings(run, folder),
    "answers": lambda run, _: answers(run),
    "answers among some": lambda run, _: answers(run, np.array([1, 4, 6, 9, 11])),
    "nearest entities": lambda run, _: nearest_entities(run, "person 1"),
    "nearest entities of some": lambda run, _: nearest_entities(run, "person 1", among="subject-of:visits"),
    "explanations": lambda run, _: explained(run),
    "memory attention": lambda run, _: [
        (vars(fact), weight) for fact, weight in memory_attention(run, 3, run.graph.end)
    ],
    "map of entities": lambda run, _: np.abs(map_entities(run).place),
    "ranks of facts": lambda run, _: rank_facts(run, np.array([[1, 0, 2, run.graph.end], [3, 1, 4, run.graph.end]])),
    "update": lambda run, _: advanced(run),
    "temperatures": lambda run, _: temperatures(run),
    "validation": lambda run, _: validated(run),
}


RANKED = "evaluation", "ranks of facts", "update", "validation"
"""What ranks among all candidates, by tables or by products where these are many."""


@pytest.fixture(scope="module")
def on_the_cpu(path, tmp_path_factory) -> Callable[[str], Any]:
    """What each work gives there."""
    return cache(lambda work: WORK[work](opened(path, "cpu"), tmp_path_factory.mktemp("cpu") / "new"))


@pytest.mark.parametrize("work", WORK)
def test_a_run_gives_the_same_on_another_device(path, on_the_cpu, device, tmp_path, work) -> None:
    run = opened(path, device)
    assert run.device.type == device.type != "cpu"
    assert_same(WORK[work](run, tmp_path / "new"), on_the_cpu(work))


@pytest.mark.parametrize("work", RANKED)
def test_it_does_where_candidates_are_many(path, on_the_cpu, device, tmp_path, monkeypatch, work) -> None:
    expected = on_the_cpu(work)
    monkeypatch.setattr(evaluate, "MOST_WRITTEN_OUT", 0)
    assert_same(WORK[work](opened(path, device), tmp_path / "new"), expected)


@pytest.mark.parametrize("device", ["made up"], indirect=True)
def test_what_mixes_devices_is_noticed(path, device, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "to_device", lambda record, _: record)
    run = opened(path, device)
    with pytest.raises(AssertionError, match="expected all tensors on the same device"):
        WORK["ranks of facts"](run, tmp_path)


def assert_same(found: Any, expected: Any) -> None:
    """Alike but for rounding."""
    assert type(found) is type(expected)
    if isinstance(found, pa.Table):
        assert_same(found.to_pydict(), expected.to_pydict())
    elif isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found:
            assert_same(found[name], expected[name])
    elif isinstance(found, (list, tuple)) and not all(isinstance(one, (int, float)) for one in found):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(found, (float, list, tuple, np.ndarray)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert found == expected
