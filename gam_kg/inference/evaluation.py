"""The evaluation of a run: the model and the untrained baselines under one protocol, as metrics and as ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gam_kg.config import EvaluateConfig
from gam_kg.errors import EvaluationError
from gam_kg.inference.ensemble import Ensemble
from gam_kg.inference.reliability import MeasuredModel
from gam_kg.inference.state import write_state_part
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.metrics.all_baselines import Baselines
from gam_kg.metrics.baselines import Baseline, StrictRecurrency
from gam_kg.metrics.bootstrap import number_rows
from gam_kg.metrics.comparison import compare
from gam_kg.metrics.parts import FEWEST_ANSWERS, Parts, parts_of
from gam_kg.metrics.strata import Strata
from gam_kg.metrics.tree import setting_metrics
from gam_kg.ops.out_of_memory import naming_knobs
from gam_kg.schemas import DIRECTIONS, ENTITIES_SEEN, FILTERS, MODEL, RANKS, STRATA
from gam_kg.training.evaluate import AnswerRanks, ModelScorer, Scorer, Tick, rank_split, roll

_MAX_SCORES = 4_000_000
_MEASURED_FACTS = 1000
"""About how many facts of a split the calibration is measured on where scores are not written out."""


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        metrics: split → setting → filter → direction → summary, for splits with facts; the same tree of each baseline
            under `baselines.<name>`; under `comparison`, where there are baselines, split → setting → see `compare`.
        ranks: One row per answer (`schemas.RANKS`), with columns `rank`, `rank_raw` (single-step) and
            `rank_multi_step`, `rank_multi_step_raw` for the model, and `<baseline>_rank...` for the baselines.
    """

    metrics: dict[str, Any]
    ranks: pa.Table


def count_ticks(run: TrainedRun, config: EvaluateConfig) -> int:
    """How often `evaluate_run` ticks."""
    run = run.as_prepared
    graph = run.graph
    ranked = sum(len(graph.times_in(split)) for split in config.splits) * len(config.settings)
    tuned = sum(time < graph.test_start for time in graph.times) if config.baselines else 0
    return tuned + ranked + sum(time < _first_ranked(run, config) for time in graph.times)


@naming_knobs(lambda: "evaluation", "more workers (train.num_workers)")
def evaluate_run(
    run: TrainedRun,
    config: EvaluateConfig,
    tick: Tick = lambda: None,
    others: Sequence[TrainedRun] = (),
    state: Path | None = None,
) -> Evaluation:
    """Walk through time and rank every answer of the configured splits in the configured settings. A collective.

    Runs are taken as they were prepared, so that no update changes a figure.

    Args:
        run: The run.
        config: What to rank.
        tick: Called `count_ticks` times.
        others: Runs on the same graph; with any, the model is all the runs together, whose calibration is not measured.
        state: Where to write the rank's part of the state after the last fact, where all facts were observed; None:
            nowhere.

    Raises:
        EvaluationError: A score is NaN or infinite, or no split has facts.
    """
    run, others = run.as_prepared, [other.as_prepared for other in others]
    graph, history = run.graph, run.history
    splits = [name for name in ("valid", "test") if name in config.splits and graph.times_in(name)]
    if not splits:
        raise EvaluationError(
            f"no facts in {' and '.join(config.splits)}; rank others, for instance evaluate.splits=[valid], or move "
            "data.split.test_start"
        )
    counted, baselines = None, dict[str, Baseline]()
    if config.baselines:
        counted = Baselines.of(history, _best_decay(run, config.facts, tick))
        baselines = counted.by_name
    history.reset()
    model = Ensemble([run, *others]) if others else ModelScorer(run.sharded, history)
    scorers: dict[str, Scorer] = {MODEL: model, **baselines}
    roll(scorers.values(), history, run.snapshots(0, _first_ranked(run, config)), tick)
    strata = Strata(graph, partial(run.sharded.communicator.sum, purpose="ranks"))
    found: dict[str, dict[str, AnswerRanks]] = {}
    calibration: dict[str, dict[str, Any]] = {}
    for split in splits:
        found[split], calibration[split] = {}, {}
        # Multi-step first: it leaves memories and history as they are at the start of the split.
        for setting in [name for name in ("multi_step", "single_step") if name in config.settings]:
            ranked, measured = scorers, None
            if isinstance(model, ModelScorer):
                measured = MeasuredModel(model, run, graph.share_of(split, _MEASURED_FACTS), _MAX_SCORES)
                ranked = {**scorers, MODEL: measured}
            found[split][setting] = _rank(run, ranked, split, config.facts, tick, setting, strata)
            if measured is not None:
                calibration[split][setting] = measured.compute()
        if "single_step" not in config.settings:
            roll(scorers.values(), history, run.snapshots(*graph.bounds(split)))
    if state is not None and isinstance(model, ModelScorer) and history.end == graph.end:
        write_state_part(state, model.memory, history, counted)
    trees = {
        name: {
            split: {setting: _metrics(run, ranks, name) for setting, ranks in of_split.items()}
            for split, of_split in found.items()
        }
        for name in scorers
    }
    for split, of_split in calibration.items():
        for setting, tree in of_split.items():
            trees[MODEL][split][setting]["calibration"] = tree
    metrics = {**trees[MODEL], "baselines": {name: trees[name] for name in baselines}}
    if baselines:
        metrics["comparison"] = {split: _compare(run, found, split) for split in found}
    return Evaluation(metrics, pa.concat_tables([_rank_table(run, split, found[split]) for split in found]))


def _first_ranked(run: TrainedRun, config: EvaluateConfig) -> int:
    return run.graph.valid_start if "valid" in config.splits else run.graph.test_start


def _best_decay(run: TrainedRun, num_facts: int, tick: Tick) -> float:
    """The decay of strict recurrency with the best time-aware MRR on validation."""
    run.history.reset()
    tried: dict[str, Scorer] = {str(decay): StrictRecurrency(run.history, decay) for decay in StrictRecurrency.decays}
    roll(tried.values(), run.history, run.snapshots(0, run.graph.valid_start), tick)
    ranks = _rank(run, tried, "valid", num_facts, tick)
    return float(max(tried, key=lambda decay: (1 / ranks.time_aware[decay]).sum()))


def _rank(
    run: TrainedRun,
    scorers: dict[str, Scorer],
    split: str,
    num_facts: int,
    tick: Tick,
    setting: str = "single_step",
    strata: Strata | None = None,
) -> AnswerRanks:
    """See `rank_split`; `num_facts` is about how many facts are ranked, 0: all."""
    first, _ = run.graph.bounds(split)
    return rank_split(
        scorers,
        run.history,
        run.snapshots(*run.graph.bounds(split)),
        partition=run.graph.partition,
        now=first if setting == "multi_step" else None,
        strata=strata,
        communicator=run.sharded.communicator,
        max_scores=_MAX_SCORES,
        share=run.graph.share_of(split, num_facts),
        tick=tick,
    )


def _metrics(run: TrainedRun, ranks: AnswerRanks, scorer: str) -> dict[str, Any]:
    by_filter = {name: getattr(ranks, name)[scorer] for name in FILTERS}
    tree = setting_metrics(ranks.time, _direction(run, ranks), _parts(run, ranks), by_filter)
    for point in tree["curve"]:
        point["timestamp"] = run.axis.label(point["snapshot"])
    return tree


def _parts(run: TrainedRun, ranks: AnswerRanks, fewest: int = FEWEST_ANSWERS) -> Parts:
    names = run.relations.names.to_pylist()
    return parts_of(ranks.stratum, _entities_seen(run, ranks), ranks.horizon, ranks.relation, names, fewest)


def _entities_seen(run: TrainedRun, ranks: AnswerRanks) -> np.ndarray:
    """Index into `schemas.ENTITIES_SEEN` of each answer: seen where both its query's entity and itself were."""
    trained = run.graph.trained.numpy()
    return np.where(trained[ranks.subject] & trained[ranks.answer], 0, 1)


def _compare(run: TrainedRun, found: dict[str, dict[str, AnswerRanks]], split: str) -> dict[str, Any]:
    """Setting → see `compare`, and `chosen_on`: the split that the best baselines are chosen on."""
    tree: dict[str, Any] = {}
    for setting, ranks in found[split].items():
        chosen_on = "valid" if "valid" in found and len(found["valid"][setting].answer) else split
        if not len(ranks.answer):
            continue
        query = number_rows(ranks.time, ranks.subject, ranks.relation)
        of_split, tried = (
            ({name: 1 / values for name, values in one.time_aware.items()}, _parts(run, one, fewest))
            for one, fewest in ((ranks, FEWEST_ANSWERS), (found[chosen_on][setting], 1))
        )
        tree[setting] = {"chosen_on": chosen_on, **compare(query, *of_split, *tried)}
    return tree


def _direction(run: TrainedRun, ranks: AnswerRanks) -> np.ndarray:
    is_inverse = ranks.relation >= len(run.relations)
    return np.where(is_inverse, DIRECTIONS.index("subject"), DIRECTIONS.index("object"))


def _rank_table(run: TrainedRun, split: str, settings: dict[str, AnswerRanks]) -> pa.Table:
    ranks = next(iter(settings.values()))
    direction = _direction(run, ranks)
    is_inverse = direction == DIRECTIONS.index("subject")
    subject = np.where(is_inverse, ranks.answer, ranks.subject)
    other = np.where(is_inverse, ranks.subject, ranks.answer)
    relation = ranks.relation % len(run.relations)
    columns: dict[str, Any] = {
        "split": pa.array([split] * len(relation)),
        "snapshot": ranks.time,
        "timestamp": run.labels(ranks.time),
        "direction": pa.array(np.array(DIRECTIONS)[direction].tolist()),
        "subject_id": subject,
        "subject": run.entities.decode(subject),
        "relation_id": relation,
        "relation": run.relations.decode(relation),
        "object_id": other,
        "object": run.entities.decode(other),
        "stratum": pa.array(np.array(STRATA)[ranks.stratum].tolist()),
        "entities": pa.array(np.array(ENTITIES_SEEN)[_entities_seen(run, ranks)].tolist()),
        "horizon": ranks.time - run.graph.bounds(split)[0] + 1,
    }
    table = pa.Table.from_pydict(columns, schema=RANKS)
    for setting, of_setting in settings.items():
        suffix = "" if setting == "single_step" else f"_{setting}"
        for scorer in of_setting.time_aware:
            prefix = "" if scorer == MODEL else f"{scorer}_"
            table = table.append_column(f"{prefix}rank{suffix}", pa.array(of_setting.time_aware[scorer]))
            table = table.append_column(f"{prefix}rank{suffix}_raw", pa.array(of_setting.raw[scorer]))
    return table
