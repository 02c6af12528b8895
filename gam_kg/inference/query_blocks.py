"""Queries of any times, in blocks that are scored together, each by a scorer that has seen the facts before them."""

from collections.abc import Iterator

import numpy as np
import torch

from gam_kg.graph.snapshot import Queries
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.training.evaluate import ModelScorer, Tick, roll
from gam_kg.training.step_batch import divide_queries

_QUERIES_AT_ONCE = 1024


def query_blocks(
    run: TrainedRun, queries: EncodedQueries, tick: Tick = lambda: None
) -> Iterator[tuple[np.ndarray, Queries, ModelScorer]]:
    """Positions of some queries, these queries, and what scores them, until there were all queries.

    Args:
        run: The run that answers.
        queries: The queries; each sees only the facts before its own time.
        tick: Called after each snapshot.
    """
    times = np.unique(queries.snapshot).tolist()
    if not times:
        return
    scorer = run.scorer_before(times[0], tick)
    snapshots = run.snapshots(times[0], times[-1])
    following = next(snapshots, None)
    for time in times:
        while following is not None and following.time < time:
            roll([scorer], run.history, [following], tick)
            following = next(snapshots, None)
        rows = np.flatnonzero(queries.snapshot == time)
        subject, relation = (torch.from_numpy(column[rows]) for column in (queries.subject, queries.relation))
        nothing = torch.zeros(0, dtype=torch.int64)
        of_time = Queries(time, subject, relation, nothing, nothing).seen_from(min(time, run.graph.end))
        for block in divide_queries(of_time, 1, _QUERIES_AT_ONCE):
            yield rows[: len(block)], block, scorer
            rows = rows[len(block) :]
        tick()
