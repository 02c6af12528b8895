"""Where memory runs out, a command ends with the knobs to turn, and without a traceback."""

import pytest
import torch
from flows import SMALL, gam_kg, write_facts

from gam_kg.api_train import train
from gam_kg.training import optimizer_step, trainer
from gam_kg.training.step import ShardedModel

SETTINGS = dict(one.split("=") for one in SMALL if "num_workers" not in one) | {"train.epochs": 1}
OF_CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9.00 GiB of which 1.00 GiB is free."
)
NEEDED = "the memory of the GPU ran out: 2.00 GiB more were needed, and of its 9.00 GiB there were 1.00 GiB free."


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    write_facts(folder / "facts.parquet", num_days=12)
    return train(folder / "facts.parquet", run_dir=folder / "run", progress=False, **SETTINGS).path / "config.yaml"


@pytest.mark.parametrize(
    ("place", "name", "arguments", "messages"),
    [
        (
            optimizer_step,
            "backward_step",
            ("train", "--force"),
            (
                "training, epoch 1, snapshot 1 of ",
                "train.max_logits=8000000; or train.num_workers=2; or train.candidates=sampled",
            ),
        ),
        (optimizer_step, "backward_step", ("train", "train.candidates=sampled"), ("or train.num_negatives=500",)),
        (trainer, "validate", ("train", "--force"), ("training, validation after epoch 1: ",)),
        (trainer, "build_history", ("train", "--force"), ("training, before its first step: ",)),
        (ShardedModel, "vectors_of", ("embed", "--force"), ("embedding: ",)),
        (ShardedModel, "scores", ("evaluate", "--force"), ("evaluation: ", "more workers (train.num_workers)")),
        (
            ShardedModel,
            "score_parts",
            ("predict",),
            ("answering queries: ", "compute on the CPU (train.use_gpu=false)"),
        ),
    ],
)
def test_a_command_names_what_it_did_and_its_knobs(config, monkeypatch, capsys, place, name, arguments, messages):
    def fail(*_, **__):
        raise torch.OutOfMemoryError(OF_CUDA)

    monkeypatch.setattr(place, name, fail)
    verb, *overrides = arguments
    assert gam_kg(monkeypatch, verb, config, *overrides) == 1
    shown = capsys.readouterr().err
    for message in (NEEDED, *messages):
        assert message in shown
    assert "Traceback" not in shown
