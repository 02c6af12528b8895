"""Compare the ranks that an evaluated run has stored with the places of the right answers among its answers.

    python tests/performance/same_ranks.py RUN [--alone 200]

Each test query is answered with all entities, its other right answers are left out, and ties count half. Scores that
differ by rounding only may change places: such ranks count as the same, and are counted. Some queries are also answered
alone.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from gam_kg.inference.answers import answer_queries
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.trained_run import TrainedRun

_ROUNDING = 2e-5
_AT_ONCE = 256


def ranks_of(run: TrainedRun, queries: EncodedQueries, right: list[np.ndarray]) -> list[tuple[float, int, int]]:
    """Rank of each right answer of each query, and the least and the most that rounding may make of it."""
    found = answer_queries(run, queries, len(run.entities))
    ranks = []
    for entity, score, answers in zip(found.entity, found.score, right, strict=True):
        place = np.empty(len(entity), np.int64)
        place[entity] = np.arange(len(entity))
        for answer in answers:
            own = score[place[answer]]
            rivals = np.delete(score, place[answers])
            above, equal = (rivals > own).sum(), (rivals == own).sum()
            ends = 1 + (rivals > own + _ROUNDING).sum(), 1 + (rivals >= own - _ROUNDING).sum()
            ranks.append((1 + above + equal / 2, *map(int, ends)))
    return ranks


def main() -> None:
    """Print how many ranks are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--alone", type=int, default=200)
    chosen = parser.parse_args()
    run = TrainedRun.load(chosen.run)
    table = pd.read_parquet(chosen.run / "evaluation" / "ranks.parquet")
    table = table[table["split"] == "test"]
    is_object = table["direction"] == "object"
    table["known"] = table["subject_id"].where(is_object, table["object_id"])
    table["answer"] = table["object_id"].where(is_object, table["subject_id"])
    table["query_relation"] = table["relation_id"] + np.where(is_object, 0, len(run.relations))
    groups = list(table.groupby(["snapshot", "known", "query_relation"]))
    found: list[tuple[float, int, int]] = []
    for start in range(0, len(groups), _AT_ONCE):
        some = groups[start : start + _AT_ONCE]
        snapshot, known, relation = np.array([key for key, _ in some]).T
        right = [rows["answer"].to_numpy() for _, rows in some]
        found += ranks_of(run, EncodedQueries(known, relation, snapshot), right)
    stored = np.concatenate([rows["rank"].to_numpy() for _, rows in groups])
    rank, least, most = np.array(found).T
    same, near = rank == stored, (least <= stored) & (stored <= most)
    lines = [
        f"{len(stored):,} test answers: {same.sum():,} ranks are the same, {(near & ~same).sum():,} within rounding, "
        f"{(~near).sum():,} differ; MRR {(1 / stored).mean():.6f} stored, {(1 / rank).mean():.6f} by answers"
    ]
    drawn = np.random.default_rng(0).choice(len(groups), min(chosen.alone, len(groups)), replace=False)
    moved = 0
    first = np.cumsum([0, *(len(rows) for _, rows in groups)])
    for number in np.sort(drawn):
        (snapshot, known, relation), rows = groups[number]
        query = EncodedQueries(np.array([known]), np.array([relation]), np.array([snapshot]))
        for place, (_, low, high) in enumerate(ranks_of(run, query, [rows["answer"].to_numpy()])):
            moved += not low <= rank[first[number] + place] <= high
    lines.append(f"{len(drawn):,} queries answered alone: {moved:,} ranks differ from those answered together")
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
