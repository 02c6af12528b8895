"""Counts of a prepared graph that decide what training takes, from metadata and a streamed pass over whole buckets.

A bucket has all facts of its entities, so distinct facts of buckets add up. Of a large graph only some buckets are
read, and what the others have is scaled from their rows, which the footers tell.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from gam_kg.artifacts import read_manifest
from gam_kg.config import Config, HistoryConfig
from gam_kg.data.fact_source import Rows, row_groups
from gam_kg.data.graph import read_names
from gam_kg.data.names import NameWords

MOST_ROWS = 3_000_000  # anchored facts read: about two seconds
MOST_NAMES = 200_000  # names split into words: about one second


@dataclass(frozen=True)
class Lookups:
    """What a query finds in the past, on average over queries, when all of the graph is the past.

    Attributes:
        recent: Facts of its subject.
        same_relation: Facts of its subject with its relation.
        first, second: First hops, and second hops of each.
    """

    recent: float
    same_relation: float
    first: float
    second: float

    @property
    def pairs(self) -> float:
        """Links to single facts."""
        return self.recent + self.same_relation

    @property
    def paths(self) -> float:
        """Links to paths of two facts."""
        return self.first * self.second


@dataclass(frozen=True)
class GraphCounts:
    """What of a graph decides memory and time.

    Attributes:
        num_entities, num_relations: As of the graph; relations without inverses.
        times: Snapshots with facts, ascending, (num_snapshots,).
        num_facts: Facts in each of them.
        active: Entities with facts in each, estimated where not all was read.
        queries: Distinct queries of each, likewise.
        valid_start, test_start: First snapshots of validation and test.
        bucket_facts: Distinct (anchor, relation, other) of each bucket, (buckets,).
        bucket_answers: Distinct (relation, anchor) of each bucket.
        relation_answers: Distinct (relation, anchor) of each relation with inverses, (2 * num_relations,).
        bucket_held: Rows of the largest row groups of each bucket's files, which a reader holds.
        neighbours: How many active entities of all snapshots have that many distinct neighbours, (most + 1,).
        lookups: What a query finds.
        degree: Facts of each entity at either end, (num_entities,).
        num_words, num_word_links: Words that names share, and how often names have them.
        share: Of the anchored facts that was read; 1 where the counts are exact.
    """

    num_entities: int
    num_relations: int
    times: np.ndarray
    num_facts: np.ndarray
    active: np.ndarray
    queries: np.ndarray
    valid_start: int
    test_start: int
    bucket_facts: np.ndarray
    bucket_answers: np.ndarray
    relation_answers: np.ndarray
    bucket_held: np.ndarray
    neighbours: np.ndarray
    lookups: Lookups
    degree: np.ndarray
    num_words: int
    num_word_links: int
    share: float

    def distinct_ends(self, num_facts: float) -> float:
        """How many entities so many facts end in, where an entity is as likely as it has facts."""
        share = np.minimum(self.degree / max(1, self.degree.sum()), 1 - 1e-12)
        return float(-np.expm1(num_facts * np.log1p(-share)).sum())

    @property
    def buckets(self) -> int:
        """Stored parts of the graph."""
        return len(self.bucket_facts)

    def split(self, name: str) -> np.ndarray:
        """Which snapshots are of "train" or "valid", bool (num_snapshots,)."""
        if name == "train":
            return self.times < self.valid_start
        return (self.times >= self.valid_start) & (self.times < self.test_start)

    def of_largest_rank(self, by_bucket: np.ndarray, world_size: int) -> float:
        """The most that a rank has of something counted by bucket."""
        owner = np.arange(self.buckets) % world_size
        return float(np.bincount(owner, by_bucket, minlength=world_size).max())

    def relation_answers_of_rank(self, world_size: int) -> float:
        """The most (relation, anchor) that a rank has as the owner of their relations."""
        owner = np.arange(len(self.relation_answers)) % world_size
        return float(np.bincount(owner, self.relation_answers, minlength=world_size).max())


def count_graph(path: Path, config: Config, most_rows: int = MOST_ROWS) -> GraphCounts:
    """Count a `graph/` artifact.

    Args:
        path: The artifact.
        config: Limits of the history, and whether words of names count.
        most_rows: About how many anchored facts to read at most.

    Raises:
        ArtifactError: The artifact is missing, unfinished or damaged.
    """
    content = read_manifest(path, "graph").content
    num_entities, num_relations = content["num_entities"], content["num_relations"]
    timeline = pq.read_table(path / "snapshots.parquet")
    times, num_facts = (timeline[name].to_numpy() for name in ("snapshot", "num_facts"))
    files = [sorted((path / "anchored" / f"bucket={b:03d}").glob("*.parquet")) for b in range(content["buckets"])]
    rows, held = _footers(files)
    read = _sample(rows, most_rows)
    found = _Pass(times, num_entities, 2 * num_relations, config.model.history)
    for bucket in read:
        found.add(Rows.of([group for file in files[bucket] for group in row_groups(file)]))
    share = float(rows[read].sum() / max(1, rows.sum()))
    about = pq.read_table(path / "entities.parquet", columns=["degree", "first_snapshot"])
    known = about["first_snapshot"].to_numpy() < content["valid_start"]
    words = _count_words(path, known) if config.model.name_words else (0, 0)
    return GraphCounts(
        num_entities,
        num_relations,
        times,
        num_facts,
        np.minimum(found.active / share, num_entities),
        np.minimum(found.queries / share, 2 * num_facts),
        content["valid_start"],
        content["test_start"],
        _scaled(found.facts, read, rows),
        _scaled(found.answers, read, rows),
        found.relation_answers / share,
        held,
        found.neighbours / share,
        found.lookups(),
        about["degree"].to_numpy(),
        *words,
        share,
    )


class _Pass:
    """Adds up the counts of buckets."""

    def __init__(self, times: np.ndarray, num_entities: int, num_relations: int, limits: HistoryConfig) -> None:
        self._times, self._num_entities, self._num_relations, self._limits = times, num_entities, num_relations, limits
        self.facts: list[int] = []
        self.answers: list[int] = []
        self.active, self.queries = (np.zeros(len(times)) for _ in range(2))
        self.relation_answers, self.neighbours = np.zeros(num_relations), np.zeros(1)
        self._found, self._num_rows = np.zeros(3), 0
        self._second = 0.0

    def add(self, rows: Rows) -> None:
        """Count a bucket."""
        time, anchor, relation, other = (column.numpy() for column in rows)
        time = np.searchsorted(self._times, time)
        query = anchor * self._num_relations + relation
        facts = np.unique(query * self._num_entities + other) // self._num_entities
        answers, per_answer = np.unique(facts, return_counts=True)
        self.facts.append(len(facts))
        self.answers.append(len(answers))
        self.relation_answers += np.bincount(answers % self._num_relations, minlength=self._num_relations)
        owners, per_owner = np.unique(facts // self._num_relations, return_counts=True)
        asked = _distinct(time, query)
        self.queries += np.bincount(asked[0], minlength=len(self._times))
        self._look_up(asked[1], answers, per_answer, owners, per_owner)
        degree = per_owner[np.searchsorted(owners, anchor)]
        self._second += float(np.minimum(degree, self._limits.two_hop_second).sum())
        self._num_rows += len(anchor)
        self._neighbours(*_distinct(time, anchor * self._num_entities + other))

    def _look_up(
        self, query: np.ndarray, answers: np.ndarray, per_answer: np.ndarray, owners: np.ndarray, per_owner: np.ndarray
    ) -> None:
        limits = self._limits
        degree = per_owner[np.searchsorted(owners, query // self._num_relations)]
        same = per_answer[np.searchsorted(answers, query)]
        capped = np.minimum(degree, limits.recent), np.minimum(same, limits.same_relation)
        self._found += [*(part.sum() for part in capped), np.minimum(degree, limits.two_hop_first).sum()]

    def _neighbours(self, time: np.ndarray, pair: np.ndarray) -> None:
        """Distinct neighbours of the active entities, and how many are active, of distinct (time, pair) sorted."""
        anchor = pair // self._num_entities
        changed = np.flatnonzero((np.diff(anchor, prepend=-1) != 0) | (np.diff(time, prepend=-1) != 0))
        self.active += np.bincount(time[changed], minlength=len(self._times))
        counted = np.bincount(np.diff(changed, append=len(anchor)))
        size = max(len(counted), len(self.neighbours))
        self.neighbours = np.pad(self.neighbours, (0, size - len(self.neighbours)))
        self.neighbours[: len(counted)] += counted

    def lookups(self) -> Lookups:
        """Averages over what was added."""
        recent, same_relation, first = self._found / max(1.0, self.queries.sum())
        return Lookups(float(recent), float(same_relation), float(first), self._second / max(1, self._num_rows))


def _distinct(time: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (time, key), sorted."""
    order = np.lexsort((key, time))
    time, key = time[order], key[order]
    new = np.ones(len(key), dtype=bool)
    new[1:] = (np.diff(time) != 0) | (np.diff(key) != 0)
    return time[new], key[new]


def _footers(files: list[list[Path]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each bucket, and of the largest row groups of its files."""
    rows, held = np.zeros(len(files), dtype=np.int64), np.zeros(len(files), dtype=np.int64)
    for bucket, paths in enumerate(files):
        for path in paths:
            metadata = pq.read_metadata(path)
            groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            rows[bucket] += sum(groups)
            held[bucket] += max(groups, default=0)
    return rows, held


def _sample(rows: np.ndarray, most_rows: int) -> np.ndarray:
    """Buckets to read: all, or some evenly between those of the heaviest and of the lightest entities."""
    buckets = len(rows)
    number = min(buckets, max(1, int(buckets * most_rows // max(1, rows.sum()))))
    return ((np.arange(number) + 0.5) * buckets / number).astype(np.int64)


def _scaled(counted: list[int], read: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Counts of all buckets, of those not read in proportion to their rows."""
    found = rows * (sum(counted) / max(1, rows[read].sum()))
    found[read] = counted
    return found


def _count_words(path: Path, known: np.ndarray) -> tuple[int, int]:
    """Words that names share and links to them; of many names from a part, in proportion."""
    names = read_names(path, "entity")
    every = max(1, -(-len(names) // MOST_NAMES))
    words = NameWords.of(names.take(np.arange(0, len(names), every)).to_pylist(), known=known[::every].tolist())
    return len(words.words) * every, len(words.word) * every
