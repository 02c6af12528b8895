"""A small run: facts that a model can learn, and settings that are quick to train."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

from gam_kg.artifacts import read_manifest
from gam_kg.graph.partition import Partition
from gam_kg.training import checkpoint
from pipelines import cli

SMALL = [
    "model.dim=16",
    "model.history.dim=8",
    "train.epochs=2",
    "train.num_workers=0",
    "train.threads=1",
    "prepare.buckets=4",
]


def write_facts(path, num_days=24, seed=0):
    """People visit places in turn, day by day, and some facts are random."""
    generator = np.random.default_rng(seed)
    rows = {
        (f"person {person}", "visits", f"place {(person + day) % 6}", day)
        for day in range(num_days)
        for person in range(12)
    }
    for day in range(num_days):
        for _ in range(4):
            first, second = generator.choice(12, 2, replace=False)
            rows.add((f"person {first}", "calls", f"person {second}", day))
    facts = pd.DataFrame(sorted(rows), columns=["subject", "relation", "object", "timestamp"])
    facts["timestamp"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(facts["timestamp"], unit="D")
    facts.to_parquet(path)
    return facts


def with_run_dir(config, path, **sections):
    """The configuration with another run folder, and other values in some sections."""
    values = config.model_dump(mode="json")
    values["run_dir"] = str(path)
    for name, section in sections.items():
        if isinstance(section, dict):
            values[name] |= section
        else:
            values[name] = section
    return type(config).model_validate(values)


def link(config, other, *names):
    """Give another run some of the artifacts of a run."""
    other.run_path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (other.run_path / name).symlink_to(config.run_path / name)


def gam_kg(monkeypatch, *arguments):
    """Call the command line here; the exit status."""
    monkeypatch.setattr(sys, "argv", ["gam-kg", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def assert_same_weights(config, other, **tolerance):
    """Two runs have the same weights; to the last bit unless a tolerance is given."""
    num_entities = read_manifest(config.run_path / "graph", "graph").content["num_entities"]
    first, second = (
        checkpoint.load_weights(each.run_path / "checkpoint", Partition(num_entities)) for each in (config, other)
    )
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)
