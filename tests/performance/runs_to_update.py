"""Finished runs of untrained weights, and files of the days that follow, to measure what a day costs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gam_kg.artifacts import Manifest, read_manifest, write_artifact
from gam_kg.config import load_config
from gam_kg.graph.name_words import NameWords
from gam_kg.graph.temporal_graph import TemporalGraph, read_names
from gam_kg.nn.model import GAMLSTM
from gam_kg.run_config import checkpoint_settings, write_config
from gam_kg.training.checkpoint import save_weights

COLUMNS = ("subject", "relation", "object", "timestamp")
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def prepare_untrained(config_path: Path) -> Path:
    """Make `graph/` and a `checkpoint/` of untrained weights, where they are not there yet; returns the run."""
    config = load_config(config_path)
    run = config.run_path
    if (run / "checkpoint").exists():
        return run
    subprocess.run([sys.executable, "-m", "pipelines", "prepare", str(config_path)], check=True)
    graph, manifest = TemporalGraph.load(run / "graph")
    words = NameWords.stored(run / "graph", manifest, of_names=config.model.name_words, known=graph.trained.tolist())
    torch.manual_seed(0)
    model = GAMLSTM(config.model, graph.trained_relations, graph.trained, words, partition=graph.partition, seed=0)

    def write(folder: Path) -> dict[str, Any]:
        save_weights(model.state_dict(), folder, graph.partition)
        (folder / "words.json").write_text(json.dumps(words.words if words else []), encoding="utf-8")
        return {"epochs": 0, "best_epoch": 0, "valid_mrr": 0.0, "temperatures": {}}

    write_artifact(
        run / "checkpoint", Manifest.of("checkpoint", {"graph": manifest.id}, checkpoint_settings(config)), write
    )
    write_config(config)
    return run


def icews14_facts(data: Path) -> tuple[pa.Table, pa.Table]:
    """Facts of train and valid, and of test, by name."""
    names = {}
    for kind in ("entity", "relation"):
        rows = [line.split("\t") for line in (data / f"{kind}2id.txt").read_text(encoding="utf-8").splitlines()]
        by_id = {int(row[1]): row[0] for row in rows if len(row) > 1}
        names[kind] = pa.array([by_id.get(number, "") for number in range(max(by_id) + 1)])

    def read(*files: str) -> pa.Table:
        ids = np.concatenate([np.loadtxt(data / file, np.int64, usecols=range(4)) for file in files])
        kinds = ("entity", "relation", "entity")
        columns = [names[kind].take(pa.array(ids[:, at])) for at, kind in enumerate(kinds)]
        return pa.table([*columns, pa.array(ids[:, 3])], names=COLUMNS)

    return read("train.txt", "valid.txt"), read("test.txt")


def repeated(facts: pa.Table, times: int) -> tuple[pa.Table, int]:
    """Facts several times over, one after another, and by how much the last ones are later."""
    period = int(pc.max(facts["timestamp"]).as_py())
    later = [facts.set_column(3, "timestamp", pc.add(facts["timestamp"], number * period)) for number in range(times)]
    return pa.concat_tables(later), (times - 1) * period


def icews14_run(facts: pa.Table, test: pa.Table, times: int, days: int, folder: Path) -> tuple[Path, list[Path]]:
    """A run of facts several times over, and files of the days that follow."""
    place = folder / f"icews14-{times}"
    place.mkdir(parents=True, exist_ok=True)
    facts, shift = repeated(facts, times)
    pq.write_table(facts, place / "facts.parquet")
    config = place / "config.yaml"
    config.write_text(
        f"name: icews14-{times}\nrun_dir: {place}/run\ndata: {{facts: {place}/facts.parquet, time_unit: 1}}\n"
        "train: {threads: 1, num_workers: 0}\n"
    )
    return prepare_untrained(config), write_days(test, days, shift, place)


def write_days(facts: pa.Table, days: int, shift: int, folder: Path) -> list[Path]:
    found = []
    for time in sorted(set(facts["timestamp"].to_pylist()))[:days]:
        day = facts.filter(pc.equal(facts["timestamp"], time))
        day = day.set_column(3, "timestamp", pc.add(day["timestamp"], shift))
        found.append(folder / f"day{time + shift}.parquet")
        pq.write_table(day, found[-1])
    return found


def with_all_facts(trained: Path, facts: Path, run: Path, settings: list[str]) -> None:
    """A run on a graph prepared with more facts, with the weights of another run, whose ids are other ones.

    Args:
        trained: The other run.
        facts: All facts; those of its training are in the same split.
        run: The run to make.
        settings: Those of `gam-kg prepare`.
    """
    config = run.parent / f"{run.name}.yaml"
    config.write_text(f"run_dir: {run}\ndata: {{facts: {facts}}}\n")
    subprocess.run([sys.executable, "-m", "pipelines", "prepare", str(config), *settings], check=True)
    found, named = read_manifest(trained / "checkpoint", "checkpoint"), {}
    for kind in ("entity", "relation"):
        ids = {name: number for number, name in enumerate(read_names(trained / "graph", kind).to_pylist())}
        named[kind] = torch.tensor([ids.get(name, -1) for name in read_names(run / "graph", kind).to_pylist()])
        num_relations = len(ids)
    known, relation = named["relation"] >= 0, named["relation"].clamp(min=0)
    # The rows of relations, those of their inverses, and the two that are shared.
    rows = torch.cat([relation, relation + num_relations, 2 * num_relations + torch.arange(2)])
    is_known = torch.cat([known, known, torch.ones(2, dtype=torch.bool)])

    def moved(weight: Tensor) -> Tensor:
        if weight.ndim == 0 or len(weight) != 2 * num_relations + 2:
            return weight
        return weight[rows] * is_known.view(-1, *[1] * (weight.ndim - 1))

    def write(folder: Path) -> dict[str, Any]:
        shared = load_file(trained / "checkpoint" / "model.safetensors")
        save_file({name: moved(weight) for name, weight in shared.items()}, folder / "model.safetensors")
        (file,) = (trained / "checkpoint").glob("entities-*.safetensors")
        own = load_file(file)
        entity = own["entity"][torch.argsort(own["entity_id"])][named["entity"].clamp(min=0)]
        entity[named["entity"] < 0] = 0
        save_file({"entity_id": torch.arange(len(entity)), "entity": entity}, folder / file.name)
        for name in ("words.json", "metrics.jsonl"):
            shutil.copy(trained / "checkpoint" / name, folder / name)
        return found.content

    graph = read_manifest(run / "graph", "graph")
    write_artifact(run / "checkpoint", Manifest.of("checkpoint", {"graph": graph.id}, found.config), write)
    write_config(load_config(config, settings))


def large_run(scale: float, days: int, folder: Path) -> tuple[Path, list[Path]]:
    """A run of generated facts, 5,000 a snapshot, and files of the last snapshots, which are not among them."""
    place, snapshots = folder / f"large-{scale:g}", round(2000 * scale)
    place.mkdir(parents=True, exist_ok=True)
    config, end = place / "config.yaml", snapshots - days
    files = [place / f"day{time}.parquet" for time in range(end, snapshots)]
    if not config.exists():
        sizes = {"entities": 1_200_000 * scale, "relations": 600, "facts": 10_000_000 * scale, "snapshots": snapshots}
        options = [f"--{name}={round(size)}" for name, size in sizes.items()]
        command = [sys.executable, "-m", "pipelines", "generate", str(place / "all"), *options]
        subprocess.run(command, check=not (place / "all" / "manifest.json").exists())
        (place / "facts").mkdir(exist_ok=True)
        later = []
        for path in sorted((place / "all").glob("*.parquet")):
            facts = pq.read_table(path)
            is_late = pc.greater_equal(facts["timestamp"], end)
            pq.write_table(facts.filter(pc.invert(is_late)), place / "facts" / path.name)
            later.append(facts.filter(is_late))
        for time, file in zip(range(end, snapshots), files, strict=True):
            day = pa.concat_tables(later)
            pq.write_table(day.filter(pc.equal(day["timestamp"], time)), file)
        settings = (CONFIGS / "large.yaml").read_text(encoding="utf-8").split("\ndata:")[1]
        settings = settings.replace("runs/large/facts", f"{place}/facts")
        config.write_text(f"name: large\nrun_dir: {place}/run\ndata:{settings}")
    return prepare_untrained(config), files
