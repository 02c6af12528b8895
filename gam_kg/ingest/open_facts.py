"""Open facts: those without an end, which hold in every snapshot until a row of a later update has their end."""

import numpy as np
import pandas as pd

FILE = "open_facts.parquet"
"""OPEN_FACTS in `graph/` and in each update, where `data.open_end` is "holds"."""

OPEN = np.iinfo(np.int64).max
"""The `stop` of a row without an end."""

_FACT = ("subject", "relation", "object", "start")


def carry(
    open_facts: np.ndarray, new_rows: np.ndarray, last_before: int, last_after: int
) -> tuple[np.ndarray, np.ndarray]:
    """What an update adds to a graph whose open facts are stored up to a snapshot.

    Every open fact is carried to `last_after`, or to the end that a row gives it. A row without an end holds from its
    start to `last_after`, unless another of the rows has its end; so does one of a fact that an earlier update closed.
    Other rows hold from their start to their end.

    Args:
        open_facts: Distinct (subject, relation, object, start), int64 (num_open, 4).
        new_rows: (subject, relation, object, start, stop), int64 (num_rows, 5); `stop` is included, or OPEN. None ends
            an open fact before `last_before`: its later snapshots are stored.
        last_before: The last snapshot of the graph.
        last_after: The last snapshot of the graph and of the rows.

    Returns:
        (distinct facts to add, by snapshot, subject, relation and object: (subject, relation, object, snapshot), int64
        (num_added, 4); the open facts after the update, as `open_facts`).
    """
    is_open, at = new_rows[:, 4] == OPEN, positions(open_facts, new_rows[:, :4])
    known = at >= 0
    assert (new_rows[known, 4] >= last_before).all(), "stored facts are not taken back"
    ended = positions(new_rows[~is_open, :4], new_rows[:, :4]) >= 0
    opened = np.unique(new_rows[is_open & ~known & ~ended, :4], axis=0)
    still = np.delete(open_facts, at[known & ~is_open], axis=0)
    after = np.concatenate([still, opened])

    given = new_rows[~is_open].copy()
    given[known[~is_open], 3] = last_before + 1  # the snapshots before are stored
    carried = still.copy()
    carried[:, 3] = last_before + 1
    holding = np.concatenate([carried, opened])
    runs = np.concatenate([given, np.column_stack([holding, np.full(len(holding), last_after)])])
    return _distinct(each_snapshot(runs)[1]), after[np.lexsort(after.T[::-1])]


def each_snapshot(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write runs of snapshots out.

    Args:
        runs: (subject, relation, object, start, stop), int64 (num_runs, 5); both ends are included.

    Returns:
        (the run of each fact, int64 (num_facts,); (subject, relation, object, snapshot), int64 (num_facts, 4)).
    """
    length = np.maximum(runs[:, 4] - runs[:, 3] + 1, 0)
    run = np.repeat(np.arange(len(runs)), length)
    facts = runs[run, :4]
    facts[:, 3] += np.arange(len(run)) - np.repeat(np.cumsum(length) - length, length)
    return run, facts


def _distinct(facts: np.ndarray) -> np.ndarray:
    """(subject, relation, object, snapshot), each once, by snapshot, subject, relation and object."""
    facts = facts[np.lexsort(facts[:, [2, 1, 0, 3]].T)]
    new = np.ones(len(facts), bool)
    new[1:] = (facts[1:] != facts[:-1]).any(axis=1)
    return facts[new]


def positions(facts: np.ndarray, sought: np.ndarray) -> np.ndarray:
    """Where each sought (subject, relation, object, start) is among facts at first, -1 where it is not.

    Args:
        facts: int64 (num_facts, 4).
        sought: int64 (num_sought, 4).

    Returns:
        int64 (num_sought,).
    """
    if not len(facts):
        return np.full(len(sought), -1)
    known = pd.DataFrame(facts, columns=[*_FACT]).assign(at=np.arange(len(facts))).drop_duplicates([*_FACT])
    found = pd.DataFrame(sought, columns=[*_FACT]).merge(known, how="left", on=[*_FACT])
    return found["at"].fillna(-1).to_numpy(np.int64)
