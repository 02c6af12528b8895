"""Training a tiny stored graph, with every setting away from its default, gives the recorded numbers.

The numbers are in `golden.json`. They cover the whole way from a stored graph to vectors and metrics: losses,
validation, checkpoints, name words, entity vectors and evaluation. A change of the code that is not meant to change
training must leave them as they are. After a change that is meant to, record them again, and look at the differences
that this prints, the largest first:

    python tests/unit/training/test_golden.py

A new release of torch or numpy may draw other random numbers, which is also a reason to record again.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the helpers of the tests

import numpy as np
import pytest
import torch
from graphs import graph_of, random_facts, write_graph
from runs import UNUSUAL, changed, train_only, train_run, training_settings

from gam_kg.config import Config
from gam_kg.inference.embed import read_vectors, write_embeddings
from gam_kg.inference.evaluation import evaluate_run
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.training.position import Progress

RECORDED = Path(__file__).with_name("golden.json")

# Processors add float64 numbers in different orders, and training amplifies the rounding: without vector instructions,
# with AVX2 and with AVX-512 the numbers agree to 3e-14.
TOLERANCE = 1e-9
VISIBLE = 1e-5
"""A setting that is in use changes some number by at least this."""

# Three entities have facts in validation and test only. Each has another word that training knows: entities without one
# would have equal vectors, hence equal scores but for rounding, which then would decide their ranks.
NAMES = [
    "Police (Arda)",
    "Army (Arda)",
    "Police (Bree)",
    "Citizen",
    "army",
    "Army (Bree)",
    "police",
    "x",
    "y",
    "Bree (Arda)",
]
LATE_ENTITIES = (2, 5, 9)
SHARED_WORDS = ["arda", "army", "police"]
"""The words of at least two names that have facts in train. "bree" is in three names, all of them late."""
VALID_START, TEST_START = 4, 6

AT_DEFAULT = {
    "model.name": "there is no other model",
    "model.name_words": "without them no words would be counted",
    "model.word_agreement": "without it all words would count alike",
    "model.memory": "without it nothing would be remembered",
    "model.gate": "without it vectors would count alike for all queries",
    "model.history.pair_statistics": "without them their tables would not be read",
    "model.history.rule_confidence": "without it nothing would say what rules say together",
    "train.precision": "the numbers are recorded in float64; bf16 has a test of its own",
    "train.num_workers": "workers belong to the commands; training runs in this process",
    "train.max_failures": "as num_workers",
    "train.loggers": "as num_workers",
    "train.threads": "as num_workers",
    "train.use_gpu": "the numbers are recorded on a CPU",
    "train.cuda_graphs": "as use_gpu",
}
"""The settings that have their default values in all cases, with the reasons."""

CASES = {
    "one_vs_all": {"seed": 8, "train.candidates": "one_vs_all", "train.max_logits": 70},
    # This one is stopped by `patience` after three epochs, of which the second is the best.
    "sampled": {"seed": 9, "model.decoder": "complex", "train.epochs": 5, "train.gradient_norm": 2.0},
}
"""What differs between the cases; "one_vs_all" is the default of `train.candidates`."""

WITHOUT_EFFECT = {"train.max_logits", "train.batch_workers", "train.read_ahead", "model.history.max_rules"}
"""The settings that change no number: they bound memory, the last in graphs with more rules than these have, or save
time."""


def config_of(case: str) -> Config:
    settings = {name: value for name, value in UNUSUAL.items() if name not in AT_DEFAULT}
    return changed(Config(), {**settings, **CASES[case]})


def write_golden_graph(folder: Path) -> None:
    facts = random_facts(0, 320)
    is_late = np.isin(facts[:, [0, 2]], LATE_ENTITIES).any(1)
    facts = facts[~is_late | (facts[:, 3] >= VALID_START)]
    graph = graph_of(facts, buckets=3, valid_start=VALID_START, test_start=TEST_START)
    write_graph(folder / "graph", graph, buckets=3, names=NAMES)


@contextmanager
def float64() -> Iterator[None]:
    """Compute in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Record:
    """The numbers of a training at each event.

    Args:
        expected: The numbers of another training; `DifferenceError` is raised at the first that differs.
    """

    def __init__(self, expected: dict[str, list[float]] | None = None) -> None:
        self.numbers: dict[str, list[float]] = {"running loss": [], "validation MRR": [], "checkpoint after": []}
        self._expected = expected

    def receive(self, progress: Progress) -> None:
        if progress.phase == "train":
            self._add("running loss", progress.loss)
        if progress.metrics is not None:
            self._add("validation MRR", progress.metrics["valid_mrr"])

    def checkpointed(self, *_: Any) -> None:
        self._add("checkpoint after", len(self.numbers["running loss"]))

    def _add(self, name: str, value: float) -> None:
        self.numbers[name].append(value)
        if self._expected is not None:
            at, expected = len(self.numbers[name]) - 1, self._expected[name]
            if at >= len(expected) or relative_difference(expected[at], value) > VISIBLE:
                raise DifferenceError


class DifferenceError(Exception):
    """A number differs from that of another training."""


def numbers_of(folder: Path, case: str) -> dict[str, Any]:
    """Train a run and measure all that is recorded of it."""
    write_golden_graph(folder)
    config, record = config_of(case), Record()
    train_run(folder, config, record.receive, record.checkpointed)
    run = TrainedRun.load(folder)
    assert run.model.entity.dtype == torch.float64
    words = json.loads((folder / "checkpoint" / "words.json").read_text(encoding="utf-8"))
    vectors = run.scorer_before(run.graph.end).vectors().numpy()
    weights = np.arange(1, vectors.size + 1).reshape(vectors.shape)
    metrics = evaluate_run(run, config.evaluate).metrics
    trees = {"model": metrics, **metrics["baselines"]}
    return {
        **record.numbers,
        "best epoch": run.checkpoint_manifest.content["best_epoch"],
        "name words": len(words),
        "entity vectors": [float(vectors.sum()), float((vectors * weights).sum())],
        "MRR": {
            f"{name} {split} {setting}": tree[split][setting]["time_aware"]["both"]["mrr"]
            for name, tree in trees.items()
            for split in ("valid", "test")
            for setting in ("single_step", "multi_step")
        },
    }


def flat(numbers: Any, name: str = "") -> dict[str, float]:
    """Nested numbers by name, as in "running loss / 3"."""
    if isinstance(numbers, (int, float)):
        return {name: numbers}
    items = numbers.items() if isinstance(numbers, dict) else enumerate(numbers, 1)
    return {
        key: value for part, inner in items for key, value in flat(inner, f"{name} / {part}" if name else part).items()
    }


def relative_difference(expected: float | None, found: float | None) -> float:
    if expected is None or found is None or not math.isfinite(found):
        return math.inf
    return abs(found - expected) / max(abs(expected), 1e-300)


def differences(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """The relative difference of every number, and what to say of it; infinite where only one side has the number."""
    before, now = flat(expected), flat(found)
    said = {}
    for name in before | now:
        apart = relative_difference(before.get(name), now.get(name))
        said[name] = apart, f"{name}: expected {before.get(name)!r}, found {now.get(name)!r}, relative {apart:.1e}"
    return said


@pytest.fixture(scope="module")
def golden_runs(tmp_path_factory):
    """The folder and the numbers of each case."""
    runs = {}
    with float64():
        for case in CASES:
            folder = tmp_path_factory.mktemp(case)
            runs[case] = folder, numbers_of(folder, case)
    return runs


@pytest.mark.parametrize("case", CASES)
def test_training_gives_the_recorded_numbers(golden_runs, case):
    expected = json.loads(RECORDED.read_text(encoding="utf-8"))[case]
    lines = [line for apart, line in differences(expected, golden_runs[case][1]).values() if apart > TOLERANCE]
    if lines:
        shown = "\n  ".join(lines[:12])
        pytest.fail(f"{len(lines)} numbers of {case} differ by more than {TOLERANCE} relative:\n  {shown}")


def test_every_setting_has_an_unusual_value():
    default = training_settings(Config())
    assert {name for name, value in default.items() if UNUSUAL.get(name, value) == value} == {"model.name"}
    assert set(UNUSUAL) <= set(default)


@pytest.mark.parametrize("case", CASES)
def test_every_setting_is_away_from_its_default_but_those_with_a_reason(case):
    default, used = training_settings(Config()), training_settings(config_of(case))
    same = {name for name in default if used[name] == default[name]}
    assert same == set(AT_DEFAULT) | ({"train.candidates"} if case == "one_vs_all" else set())


def test_every_setting_changes_some_number_of_some_case(golden_runs):
    default = training_settings(Config())
    values = {name: value for name, value in default.items() if name not in AT_DEFAULT}
    values["model.name_words"] = False

    def changes(setting: str, case: str) -> bool:
        folder, expected = golden_runs[case]
        record = Record(expected)
        try:
            with float64():
                config = changed(config_of(case), {setting: values[setting]})
                train_only(folder, config, record.receive, record.checkpointed)
        except DifferenceError:
            return True
        return any(len(found) != len(expected[name]) for name, found in record.numbers.items())

    same = {setting for setting in values if not any(changes(setting, case) for case in CASES)}
    assert same == WITHOUT_EFFECT


@pytest.mark.parametrize("case", CASES)
def test_words_and_entity_rows_know_only_of_facts_in_train(golden_runs, case):
    folder, _ = golden_runs[case]
    words = json.loads((folder / "checkpoint" / "words.json").read_text(encoding="utf-8"))
    assert words == SHARED_WORDS
    trained = TrainedRun.load(folder).graph.trained.tolist()
    assert [entity for entity, one in enumerate(trained) if not one] == list(LATE_ENTITIES)


def test_exported_vectors_are_those_of_the_run_in_single_precision(golden_runs, tmp_path):
    folder, expected = golden_runs["one_vs_all"]
    with float64():
        run = TrainedRun.load(folder)
        vectors = run.scorer_before(run.graph.end).vectors().numpy()
        write_embeddings(run, run.graph.end - 1, tmp_path)
    assert vectors.sum() == pytest.approx(expected["entity vectors"][0], rel=1e-12)
    np.testing.assert_allclose(read_vectors(tmp_path / "entities.parquet"), vectors, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_precision_bf16_trains_near_single_precision_but_not_in_it(tmp_path, case):
    write_golden_graph(tmp_path)
    single, bf16 = Record(), Record()
    config = changed(config_of(case), {"train.epochs": 1})
    train_only(tmp_path, config, single.receive)
    train_only(tmp_path, changed(config, {"train.precision": "bf16"}), bf16.receive)
    losses = zip(single.numbers["running loss"], bf16.numbers["running loss"], strict=True)
    apart = max(relative_difference(expected, found) for expected, found in losses)
    # Single precision rounds by 1e-7, bfloat16 by 4e-3.
    assert 2e-5 < apart < 0.05


def main() -> None:
    """Record the numbers and print how far they are from those recorded before."""
    before = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    recorded = {}
    with float64():
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                recorded[case] = numbers_of(Path(folder), case)
    RECORDED.write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")
    apart = sorted(differences(before, recorded).values(), reverse=True)
    print(f"recorded {len(apart)} numbers; the largest relative differences from those before:")  # noqa: T201
    for _, line in apart[:12]:
        print(f"  {line}")  # noqa: T201


if __name__ == "__main__":
    main()
