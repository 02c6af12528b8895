"""Counts of a prepared graph that decide what training takes.

Of a large graph only some buckets are read. Counts of the others are estimated from their numbers of rows.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gam_kg.artifacts import open_artifact
from gam_kg.config import HistoryConfig
from gam_kg.graph.fact_source import count_rows, row_groups
from gam_kg.graph.name_words import NameWords, read_features
from gam_kg.graph.temporal_graph import read_names
from gam_kg.ingest.feature_words import shared_words
from gam_kg.parquet import read_table
from gam_kg.schemas import ANCHORED

MAX_ROWS = 3_000_000  # anchored facts to read: a few seconds
MAX_NAMES = 200_000  # names to split into words: about one second
HEADS = 4  # answers to which a body leads, on average; 3.4 on ICEWS14
_SAMPLE_SNAPSHOTS, _SAMPLE_FACTS = 5, 1000


@dataclass(frozen=True)
class GraphCounts:
    """Counts of a graph; relations are counted without their inverses, snapshots if they have facts.

    Attributes:
        num_entities, num_relations: Numbers of the whole graph.
        num_words: Words that names share.
        num_feature_words, num_features: Words that features share, one for each number; features of all entities.
        train, valid: Snapshots of training and of validation among the snapshots.
        num_facts, active, queries: Facts, active entities and distinct queries of each snapshot, (num_snapshots,).
        degree: Facts of each entity at either end, (num_entities,).
        bucket_facts, bucket_answers: Distinct (anchor, relation, other) and (anchor, relation) by bucket.
        neighbours: Distinct neighbours of each active entity of each snapshot that was read, (num_read,).
        query_facts, query_answers: Number of queries by the distinct facts of their subject, and by their answers.
        row_facts, row_relations: Number of anchored facts by the distinct facts of their anchor, and by its relations.
        relation_pairs: Pairs of relations that some entity has both of, with inverses; at least that many.
        share: Share of the anchored facts that was read; 1 where the counts are exact.
        sample: Facts of some training snapshots: subject, relation, object, snapshot, (num_sampled, 4).
    """

    num_entities: int
    num_relations: int
    num_words: int
    num_feature_words: int
    num_features: int
    train: slice
    valid: slice
    num_facts: np.ndarray
    active: np.ndarray
    queries: np.ndarray
    degree: np.ndarray
    bucket_facts: np.ndarray
    bucket_answers: np.ndarray
    neighbours: np.ndarray
    query_facts: np.ndarray
    query_answers: np.ndarray
    row_facts: np.ndarray
    row_relations: np.ndarray
    relation_pairs: float
    share: float
    sample: np.ndarray

    def history_links(self, limits: HistoryConfig) -> float:
        """Facts, paths and rules of shared facts that a query finds, on average and at most, when all is past."""
        pairs = _capped_mean(self.query_facts, limits.recent) + _capped_mean(self.query_answers, limits.same_relation)
        first, limit = _capped_mean(self.query_facts, limits.two_hop_first), limits.two_hop_second
        nearest, wider = (_capped_mean(self.row_facts, most) for most in (limit, max(limit, limits.two_hop_newest)))
        # A path ends in the nearest facts and in one of each relation, which may be among the nearest.
        ends = min(wider, nearest + _capped_mean(self.row_relations, limits.two_hop_newest)) if limit else 0.0
        return pairs + first * ends + self._shared_rules(limits)

    def facts_of_neighbours(self, queries: float, limits: HistoryConfig) -> float:
        """Facts of the neighbours of some queries among which paths may end, at most, when all is past."""
        if not limits.two_hop_second:
            return 0.0
        neighbours = min(queries * _capped_mean(self.query_facts, limits.two_hop_first), self.num_entities)
        return neighbours * _capped_mean(self.row_facts, max(limits.two_hop_second, limits.two_hop_newest))

    def confidences(self, limits: HistoryConfig) -> float:
        """Rules of both kinds whose confidences a query joins, likewise."""
        every = _capped_mean(self.query_facts, limits.recent) + self._shared_rules(limits)
        return every if limits.rule_confidence else 0.0

    def _shared_rules(self, limits: HistoryConfig) -> float:
        return _capped_mean(self.query_facts, limits.rule_bodies) * min(limits.rule_heads, HEADS)

    def exposures_and_hits(self, limits: HistoryConfig) -> tuple[float, float]:
        """How often rules are tried, and lead to an answer, when all of the graph is in the past."""
        bodies = _capped_mean(self.query_facts, limits.rule_bodies)
        return bodies * float(self.queries.sum()), bodies * 2 * float(self.num_facts.sum())

    def distinct_entities(self, draws: float) -> float:
        """Expected number of distinct entities in some draws, each entity as likely as it has facts."""
        share = np.minimum(self.degree / max(1, self.degree.sum()), 1 - 1e-12)
        return float(-np.expm1(draws * np.log1p(-share)).sum())


def count_graph(path: Path, max_rows: int = MAX_ROWS) -> GraphCounts:
    """Count a `graph/` artifact.

    Args:
        path: The artifact.
        max_rows: About how many anchored facts to read at most.

    Raises:
        ArtifactError: The artifact is missing, unfinished or damaged.
    """
    manifest = open_artifact(path, "graph")
    content = manifest.content
    num_entities, num_relations, buckets = (content[name] for name in ("num_entities", "num_relations", "buckets"))
    timeline = read_table(path / "snapshots.parquet")
    times, num_facts = _column(timeline, "snapshot"), _column(timeline, "num_facts")
    train, valid = (int(np.searchsorted(times, content[name])) for name in ("valid_start", "test_start"))
    entities = read_table(path / "entities.parquet", columns=["degree", "first_snapshot"])
    known = _column(entities, "first_snapshot") < content["valid_start"]
    features = read_features(path, manifest)
    rows, read, bucket_rows = _read_buckets(path / "anchored", buckets, max_rows)
    share = len(rows) / max(1, bucket_rows.sum())

    def by_bucket(table: pa.Table) -> np.ndarray:
        counted = np.bincount(_column(table, "anchor") % buckets, minlength=buckets)
        estimated = bucket_rows * (len(table) / max(1, len(rows)))
        estimated[read] = counted[read]
        return estimated

    def by_snapshot(table: pa.Table) -> np.ndarray:
        return np.bincount(np.searchsorted(times, _column(table, "snapshot")), minlength=len(times)) / share

    facts, queries = _distinct(rows, "anchor", "relation", "other"), _distinct(rows, "snapshot", "anchor", "relation")
    answers = _distinct(facts, "anchor", "relation")
    neighbours = _distinct(_distinct(rows, "snapshot", "anchor", "other"), "snapshot", "anchor")
    queried = _distinct(queries, "anchor", "relation").join(answers, ["anchor", "relation"], right_suffix="_answers")
    facts_of, relations_of = (np.bincount(_column(some, "anchor"), minlength=num_entities) for some in (facts, answers))
    return GraphCounts(
        num_entities=num_entities,
        num_relations=num_relations,
        num_words=_count_words(path, known),
        num_feature_words=0 if features is None else len(shared_words(features, known)),
        num_features=0 if features is None else len(features),
        train=slice(0, train),
        valid=slice(train, valid),
        num_facts=num_facts,
        active=np.minimum(by_snapshot(neighbours), num_entities),
        queries=np.minimum(by_snapshot(queries), 2 * num_facts),
        degree=_column(entities, "degree"),
        bucket_facts=by_bucket(facts),
        bucket_answers=by_bucket(answers),
        neighbours=_column(neighbours, "count_all"),
        query_facts=np.bincount(facts_of[_column(queried, "anchor")], _column(queried, "count_all")),
        query_answers=np.bincount(_column(queried, "count_all_answers"), _column(queried, "count_all")),
        row_facts=np.bincount(facts_of[_column(rows, "anchor")]),
        row_relations=np.bincount(relations_of[_column(rows, "anchor")]),
        relation_pairs=min(_relation_pairs(answers) / share, (2 * num_relations) ** 2),
        share=share,
        sample=_sample(rows, times[:train], num_relations),
    )


def _read_buckets(folder: Path, buckets: int, max_rows: int) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Rows of some buckets, evenly chosen from those of the most frequent to those of the rarest entities.

    Returns:
        The rows, which buckets they are of, and the number of rows of each bucket.
    """
    files = [sorted((folder / f"bucket={bucket:03d}").glob("*.parquet")) for bucket in range(buckets)]
    bucket_rows = np.array([count_rows(paths) for paths in files])
    number = min(buckets, max(1, int(buckets * max_rows // max(1, bucket_rows.sum()))))
    read = ((np.arange(number) + 0.5) * buckets / number).astype(np.int64)
    groups = [group for bucket in read for file in files[bucket] for group in row_groups(file)]
    return pa.concat_tables([ANCHORED.empty_table(), *groups]), read, bucket_rows


def _distinct(table: pa.Table, *keys: str) -> pa.Table:
    """Distinct rows of some columns, and how often each is there (`count_all`)."""
    return table.group_by(list(keys)).aggregate([([], "count_all")])


def _relation_pairs(answers: pa.Table) -> int:
    """Pairs of relations that the distinct (anchor, relation) of some anchor have; of many rows, an upper bound."""
    number = int((_column(_distinct(answers, "anchor"), "count_all") ** 2).sum())
    if number > MAX_ROWS:
        return number
    keys = answers.select(["anchor", "relation"])
    both = keys.join(keys, "anchor", right_suffix="_other", join_type="inner")
    return len(_distinct(both, "relation", "relation_other"))


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()


def _capped_mean(histogram: np.ndarray, limit: int) -> float:
    """Mean of min(value, limit), given how often each value is there."""
    values = np.minimum(np.arange(len(histogram)), limit)
    return float(values @ histogram / max(1, histogram.sum()))


def _sample(rows: pa.Table, times: np.ndarray, num_relations: int) -> np.ndarray:
    """Facts of consecutive snapshots in the middle of training; of many facts some, evenly chosen."""
    first = max(0, len(times) - _SAMPLE_SNAPSHOTS) // 2
    chosen = np.isin(_column(rows, "snapshot"), times[first : first + _SAMPLE_SNAPSHOTS])
    (places,) = np.nonzero(chosen & (_column(rows, "relation") < num_relations))
    some = rows.take(places[:: max(1, -(-len(places) // _SAMPLE_FACTS))])
    return np.stack([_column(some, name) for name in ("other", "relation", "anchor", "snapshot")], 1)


def _count_words(path: Path, known: np.ndarray) -> int:
    """Words that names share; of many names estimated from a part."""
    names = read_names(path, "entity")
    every = max(1, -(-len(names) // MAX_NAMES))
    words = NameWords.of(names.take(np.arange(0, len(names), every)).to_pylist(), known=known[::every].tolist())
    return len(words.words) * every
