"""The evaluation of a run: the model and the untrained baselines under one protocol, as metrics and as ranks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gam_kg.config import EvaluateConfig
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.baselines import Baseline, StrictRecurrency, build_baselines
from gam_kg.metrics.strata import Strata
from gam_kg.metrics.tree import setting_metrics
from gam_kg.schemas import DIRECTIONS, FILTERS, RANKS, STRATA
from gam_kg.train.evaluate import AnswerRanks, ModelScorer, Scorer, Tick, rank_split, roll

MODEL = "gam_lstm"
_MAX_SCORES = 4_000_000


@dataclass(frozen=True)
class Evaluation:
    """What evaluation found.

    Attributes:
        metrics: split → setting → filter → direction → summary; the same tree of each baseline under
            `baselines.<name>`.
        ranks: One row a query (`schemas.RANKS`), with columns `rank`, `rank_raw` (single-step) and `rank_multi_step`,
            `rank_multi_step_raw` for the model, and `<baseline>_rank...` for the baselines.
    """

    metrics: dict[str, Any]
    ranks: pa.Table


def count_ticks(run: TrainedRun, config: EvaluateConfig) -> int:
    """How often `evaluate_run` ticks."""
    graph = run.graph
    asked = sum(len(graph.times_in(split)) for split in config.splits) * len(config.settings)
    tuned = sum(time < graph.test_start for time in graph.times) if config.baselines else 0
    return tuned + asked + sum(time < _first_asked(run, config) for time in graph.times)


def evaluate_run(run: TrainedRun, config: EvaluateConfig, tick: Tick = lambda: None) -> Evaluation:
    """Walk through time and rank every answer of the asked splits in the asked settings. A collective.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    graph, history, topology = run.graph, run.history, run.model.topology
    baselines: dict[str, Baseline] = {}
    if config.baselines:
        decay = _best_decay(run, config.facts, tick)
        baselines = build_baselines(history, graph.partition, graph.num_relations, topology, decay)
    history.reset()
    scorers: dict[str, Scorer] = {MODEL: ModelScorer(run.model, history), **baselines}
    roll(scorers.values(), history, run.moments(0, _first_asked(run, config)), tick)
    strata = Strata(graph, topology)
    found: dict[str, dict[str, AnswerRanks]] = {}
    for split, start, end in (("valid", graph.valid_start, graph.test_start), ("test", graph.test_start, graph.end)):
        if split not in config.splits:
            continue
        found[split] = {}
        # Multi-step first: it leaves memories and history as they are at the start of the split.
        for setting in ("multi_step", "single_step"):
            if setting in config.settings:
                found[split][setting] = rank_split(
                    scorers,
                    history,
                    run.moments(start, end),
                    partition=graph.partition,
                    frozen=setting == "multi_step",
                    strata=strata,
                    topology=topology,
                    max_scores=_MAX_SCORES,
                    share=graph.share_of(split, config.facts),
                    tick=tick,
                )
        if "single_step" not in config.settings:
            roll(scorers.values(), history, run.moments(start, end))
    trees = {name: _tree(found, name, run) for name in scorers}
    metrics = {**trees[MODEL], "baselines": {name: trees[name] for name in baselines}}
    return Evaluation(metrics, pa.concat_tables([_rank_table(run, split, found[split]) for split in found]))


def _first_asked(run: TrainedRun, config: EvaluateConfig) -> int:
    return run.graph.valid_start if "valid" in config.splits else run.graph.test_start


def _best_decay(run: TrainedRun, num_facts: int, tick: Tick) -> float:
    """The decay of strict recurrency with the best time-aware MRR on validation."""
    graph, history, topology = run.graph, run.history, run.model.topology
    history.reset()
    tried: dict[str, Scorer] = {
        str(decay): StrictRecurrency(history, graph.partition, graph.num_relations, topology, decay)
        for decay in StrictRecurrency.decays
    }
    roll(tried.values(), history, run.moments(0, graph.valid_start), tick)
    valid = run.moments(graph.valid_start, graph.test_start)
    ranks = rank_split(
        tried,
        history,
        valid,
        partition=graph.partition,
        topology=topology,
        max_scores=_MAX_SCORES,
        share=graph.share_of("valid", num_facts),
        tick=tick,
    )
    return float(max(tried, key=lambda decay: (1 / ranks.time_aware[decay]).sum()))


def _tree(found: dict[str, dict[str, AnswerRanks]], scorer: str, run: TrainedRun) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for split, settings in found.items():
        tree[split] = {}
        for setting, ranks in settings.items():
            by_filter = {name: getattr(ranks, name)[scorer] for name in FILTERS}
            metrics = setting_metrics(ranks.time, _direction(run, ranks), ranks.stratum, by_filter)
            for point in metrics["curve"]:
                point["timestamp"] = run.axis.label(point["snapshot"])
            tree[split][setting] = metrics
    return tree


def _direction(run: TrainedRun, ranks: AnswerRanks) -> np.ndarray:
    asks_object = ranks.relation < len(run.relations)
    return np.where(asks_object, DIRECTIONS.index("object"), DIRECTIONS.index("subject"))


def _rank_table(run: TrainedRun, split: str, settings: dict[str, AnswerRanks]) -> pa.Table:
    ranks = next(iter(settings.values()))
    asks_object = ranks.relation < len(run.relations)
    subject = np.where(asks_object, ranks.subject, ranks.answer)
    other = np.where(asks_object, ranks.answer, ranks.subject)
    relation = ranks.relation % len(run.relations)
    columns: dict[str, Any] = {
        "split": pa.array([split] * len(relation)),
        "snapshot": ranks.time,
        "timestamp": run.labels(ranks.time),
        "direction": pa.array(np.array(DIRECTIONS)[_direction(run, ranks)].tolist()),
        "subject_id": subject,
        "subject": run.entities.decode(subject),
        "relation_id": relation,
        "relation": run.relations.decode(relation),
        "object_id": other,
        "object": run.entities.decode(other),
        "stratum": pa.array(np.array(STRATA)[ranks.stratum].tolist()),
    }
    table = pa.Table.from_pydict(columns, schema=RANKS)
    for setting, of_setting in settings.items():
        suffix = "" if setting == "single_step" else f"_{setting}"
        for scorer in of_setting.time_aware:
            prefix = "" if scorer == MODEL else f"{scorer}_"
            table = table.append_column(f"{prefix}rank{suffix}", pa.array(of_setting.time_aware[scorer]))
            table = table.append_column(f"{prefix}rank{suffix}_raw", pa.array(of_setting.raw[scorer]))
    return table
