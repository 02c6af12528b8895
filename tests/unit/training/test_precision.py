"""TF32 is a setting of the whole process: it holds in training where it is configured, and nowhere else."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from graphs import graph_of, random_facts
from runs import changed
from scoring import sharded

from gam_kg.api_train import train
from gam_kg.config import Config
from gam_kg.errors import ConfigError
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.product_scores import ProductScores
from gam_kg.ops.precision import float32_products
from gam_kg.training.evaluate import ModelScorer
from gam_kg.training.step import ShardedModel
from gam_kg.training.trainer import Trainer


def settings() -> tuple[bool, bool]:
    """Whether products, and convolutions, are in TF32."""
    backends: Any = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        return backends.cuda.matmul.fp32_precision == "tf32", backends.cudnn.conv.fp32_precision == "tf32"
    return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32


@pytest.fixture(params=["highest", "high"])
def process(request) -> Iterator[tuple[bool, bool]]:
    """The settings of a process, as torch has them and as its user may have set them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield settings()
    torch.set_float32_matmul_precision(before)


def small_config(precision: str = "float32") -> Config:
    return changed(Config(), {"model.dim": 8, "train.epochs": 1, "train.precision": precision})


def test_the_settings_of_the_process_are_put_back(process) -> None:
    with float32_products(tf32=True):
        assert settings() == (True, True)
        with float32_products():
            assert settings() == (False, False)
        assert settings() == (True, True)
    assert settings() == process
    with pytest.raises(ZeroDivisionError), float32_products(tf32=not process[0]):
        1 / 0  # noqa: B018
    assert settings() == process


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_steps_are_in_the_configured_precision_and_nothing_else_is(process, monkeypatch, precision: str) -> None:
    seen: dict[str, set[tuple[bool, bool]]] = {"train": set(), "validate": set()}
    scores, score_parts = ShardedModel.scores, ShardedModel.score_parts

    def noting(method: Any) -> Any:
        def noted(self: ShardedModel, *arguments: Any) -> Any:
            seen["train" if self.model.training else "validate"].add(settings())
            return method(self, *arguments)

        return noted

    monkeypatch.setattr(ShardedModel, "scores", noting(scores))
    monkeypatch.setattr(ShardedModel, "score_parts", noting(score_parts))
    trainer = Trainer(small_config(precision), graph_of(random_facts(0)))
    for _ in trainer.run():
        assert settings() == process, "what runs between two snapshots is the user's"
    of_steps = (True, True) if precision == "tf32" else (False, False)
    assert seen == {"train": {of_steps}, "validate": {(False, False)}}
    assert settings() == process


def test_scores_outside_of_training_are_never_in_tf32(process, monkeypatch) -> None:
    seen, product = set(), ProductScores._product

    def noted(self: ProductScores, *arguments: Any, **named: Any) -> Any:
        seen.add(settings())
        return product(self, *arguments, **named)

    monkeypatch.setattr(ProductScores, "_product", noted)
    graph, config = graph_of(random_facts(0)), small_config()
    model = Trainer(config, graph).model
    scorer, queries = ModelScorer(sharded(model), HistoryIndex(graph, config.model.history)), graph.snapshot(3).queries
    products, nothing = scorer.products(queries), torch.zeros(1, dtype=torch.int64)
    products.best(1)
    products.compare(nothing, products.of(nothing, nothing), nothing)
    assert seen == {(False, False)}


def test_tf32_is_refused_on_a_cpu(tmp_path) -> None:
    facts = tmp_path / "facts.csv"
    rows = (f"e{n % 7},r,e{n % 5},2024-01-{n % 20 + 1:02d}" for n in range(80))
    facts.write_text("\n".join(["subject,relation,object,timestamp", *rows]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"train\.precision=tf32.*no effect on a CPU.*train\.use_gpu=true"):
        train(facts, run_dir=tmp_path / "run", progress=False, train={"precision": "tf32"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_gpu_trains_near_single_precision_but_not_in_it(precision: str) -> None:
    if precision == "tf32" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    losses = {}
    for one in ("float32", precision):
        trainer = Trainer(small_config(one), graph_of(random_facts(0)), device="cuda")
        losses[one] = [event.metrics["loss"] for event in trainer.run() if event.metrics is not None][-1]
    assert losses[precision] != losses["float32"]
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.05)
