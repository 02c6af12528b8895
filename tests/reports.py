"""What a report is made of, written by hand: an evaluation, and names that are hard to show."""

from copy import deepcopy
from datetime import UTC, datetime

import numpy as np

from gam_kg.inference.report_data import Profile, RelationRow, ReportData
from gam_kg.inference.report_examples import EntityMap, Example, Look
from gam_kg.schemas import DIRECTIONS, ENTITIES_SEEN, FILTERS, SETTINGS, STRATA

BEST, OTHER = "typed_pair_counts", "popularity"


def summary(mrr, count=300):
    return {"mrr": mrr, "hits@1": mrr, "hits@3": mrr, "hits@10": mrr, "count": count}


def tree(mrr):
    """Of one scorer."""
    setting = {
        **{name: {side: summary(mrr) for side in DIRECTIONS} for name in FILTERS},
        "strata": {name: summary(mrr, 100) for name in STRATA},
        "entities": {name: summary(mrr / 4, 150) for name in ENTITIES_SEEN},
        "horizons": {"1": summary(mrr, 75), "3-5": summary(mrr / 2, 225)},
        "relations": {},
        "inverse_relations": {},
        "curve": [],
    }
    return {"test": {name: deepcopy(setting) for name in SETTINGS}}


def part(mean, half, *, best=BEST, of_other=0.1):
    """A part in which the model is ahead of the best baseline by a mean, with an interval of half a width around it."""
    return {
        "count": 1200,
        "best_baseline": best,
        "model_minus": {
            OTHER: {"mrr": of_other, "low": of_other - 0.01, "high": of_other + 0.01},
            BEST: {"mrr": mean, "low": mean - half, "high": mean + half},
        },
    }


def metrics_of(split="test"):
    """An evaluation of the model and two baselines on one split, in both settings."""
    compared = {
        "overall": part(0.02, 0.01),
        "chosen_on": "valid",
        "strata": {"cold": part(-0.5, 0.1)},
        "entities": {name: part(0.05, 0.01) for name in ENTITIES_SEEN},
        "horizons": {"1": part(0.01, 0.02), "3-5": part(-0.03, 0.01)},
        "relations": {"likes": part(-0.04, 0.01), "owns": part(-0.01, 0.02)},
        "inverse_relations": {"likes": part(0.02, 0.01, of_other=-0.2)},
    }
    calibration = {
        "1": {"count": 9, "temperature": 0.82}
        | {f"{name}_{kind}": 0.25 for name in ("ece", "log_likelihood") for kind in ("raw", "calibrated")}
    }
    found = tree(0.4)
    for setting in SETTINGS:
        found["test"][setting]["calibration"] = calibration
    metrics = {
        **found,
        "baselines": {OTHER: tree(0.1), BEST: tree(0.3)},
        "comparison": {"test": {name: deepcopy(compared) for name in ("multi_step", "single_step")}},
    }
    for one in (metrics, metrics["comparison"], *metrics["baselines"].values()):
        one[split] = one.pop("test")
    return metrics


HARD_NAMES = [
    "<script>alert('a & b')</script>",
    "a" * 250,
    "word " * 50,
    "Ministry_of_Foreign_Affairs_(United_Kingdom)/" * 5,
    "東京 $x_1^2$ 😀",
    "\u202eright to left\u202c \x1b[2J \"quoted\" 'twice'",
    "42",
]


def report_data(num_relations=40, num_snapshots=30, **changes):
    """All that a report may show, with hard names, as long as they may get."""
    metrics = metrics_of()
    tenths = [{"count": 10, "probability": at / 10 + 0.05, "share": at / 12} for at in range(10)]
    for one in (metrics, *metrics["baselines"].values()):
        of_split = one["test"]
        for at in of_split.values():
            at["curve"] = [
                {"timestamp": f"2020-01-{day:02}T00:00", "mrr": day / 40, "count": day}
                for day in range(1, num_snapshots)
            ]
    for at in metrics["test"].values():
        at["calibration"]["1"]["tenths"] = {"raw": tenths, "calibrated": tenths}
    for at, name in enumerate(HARD_NAMES):
        metrics["comparison"]["test"]["single_step"]["relations"][name] = part(-0.01 * at, 0.02)
    relations = [HARD_NAMES[at % len(HARD_NAMES)] + str(at) for at in range(num_relations)]
    difference = {"mrr": -0.04, "low": -0.05, "high": -0.03}
    rows = [
        RelationRow(name, "object", 9, 0.25, BEST, 0.29, difference if at % 2 else None)
        for at, name in enumerate(relations)
    ]
    examples = [
        Example(name if right else None, name, None if right else name, "2020-01-30", right, name, 17.0,
                [(other, 0.3, other == name) for other in HARD_NAMES], [(f"{name} seen 2 times", 41.0)])
        for name in HARD_NAMES for right in (True, False)
    ]  # fmt: skip
    places = np.random.default_rng(0).standard_normal((60, 2))
    many = [HARD_NAMES[at % len(HARD_NAMES)] for at in range(60)]
    look = Look(
        examples,
        {name: [(other, 0.5) for other in HARD_NAMES] for name in HARD_NAMES},
        EntityMap(many, places, np.arange(60) % 3, [*HARD_NAMES[:2], "others"], list(range(30)), 0.5),
    )
    epoch = {"seconds": 60.0, "world_size": 2, "facts_per_second": 1234.5, "peak_memory_bytes": 3 * 2**30}
    epoch |= {"phases": {"score": 30.0, "backward of scores": 20.0}}
    epoch |= {"traffic": {"halo": {"bytes": 1000, "collectives": 20, "seconds": 1.0}}}
    epochs = [{"epoch": at, "step": 10 * at, "loss": 5 / at, "valid_mrr": 0.4, **epoch} for at in (1, 2)]
    graph = {"num_facts": 1000, "num_entities": 60, "num_relations": num_relations, "num_snapshots": num_snapshots}
    graph |= {"splits": {"train": 800, "valid": 100, "test": 100}, "num_rows": 1010, "merged": 3, "names_changed": 2}
    graph |= {"quarantined": {"null": 4, "unreadable_timestamp": 3}, "valid_start": 10, "test_start": 20}
    graph |= {"time": {"kind": "integer", "unit": 1, "origin": 0}}
    days = np.arange(num_snapshots)
    profile = Profile(
        days, [f"2020-01-{day + 1:02}" for day in days], 10 * days, days // 10 % 3, np.arange(60), relations,
        list(range(num_relations, 0, -1)),
    )  # fmt: skip
    fields = {
        "name": "a & b", "metrics": metrics, "epochs": epochs, "graph": graph,
        "checkpoint": {"best_epoch": 2, "epochs": 4}, "versions": {"torch": "2.8"}, "profile": profile,
        "relations": rows, "over_time": [], "settings": [("data.facts", HARD_NAMES[1], "none")], "seed": 3,
        "notices": [f"Note: {HARD_NAMES[0]}."], "look": look, "machine": {"processor": "any"},
        "made": datetime(2020, 2, 1, tzinfo=UTC),
    }  # fmt: skip
    return ReportData(**fields | changes)
