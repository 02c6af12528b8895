"""What a look-up of the history index gives: the part of the past that the history attention reads."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_BUCKETS = 32
NEVER = NUM_BUCKETS


# Smallest value of each bucket: 0 to 5 one by one, then two buckets for each doubling.
_BOUNDARIES = torch.tensor([*range(6), *(math.ceil(5 * 2 ** ((bucket - 5.5) / 2)) for bucket in range(6, NUM_BUCKETS))])


def log_bucket(value: Tensor) -> Tensor:
    """Log-spaced bucket of a count or recency, in `[0, NUM_BUCKETS)`; same shape, int64."""
    return torch.bucketize(value, _BOUNDARIES.to(value.device), right=True) - 1


@dataclass(frozen=True)
class PairHistory:
    """Past facts between the subjects of the queries and their candidates.

    Entries are shared by the queries of a subject; a link joins a query to an entry it may read. Links of one
    (query, candidate) pair are told by `link_pair`.

    Attributes:
        entry_relation, entry_other: Past fact (subject, relation, other), int64 (num_entries,).
        entry_recency, entry_count: Buckets, int64 (num_entries,).
        entry_same: Whether the entry was looked up by the query's own relation, bool (num_entries,).
        link_query, link_entry, link_pair: int64 (num_links,).
        pair_query, pair_other: The distinct pairs, int64 (num_pairs,).
        pair_features: Buckets (num_pairs, 4): recency and count of (s, r, o), recency of (s, any, o), number of
            distinct relations of (s, any, o). `NEVER` stands for a recency of what was never seen.
    """

    entry_relation: Tensor
    entry_other: Tensor
    entry_recency: Tensor
    entry_count: Tensor
    entry_same: Tensor
    link_query: Tensor
    link_entry: Tensor
    link_pair: Tensor
    pair_query: Tensor
    pair_other: Tensor
    pair_features: Tensor


@dataclass(frozen=True)
class PathHistory:
    """Two-hop paths subject –first→ neighbour –second→ candidate in the past.

    Attributes:
        first_relation, first_recency: int64 (num_first,).
        second_relation, second_other, second_recency, second_count: int64 (num_second,).
        path_first, path_second: int64 (num_paths,).
        link_query, link_path, link_pair: int64 (num_links,).
        pair_query, pair_other: int64 (num_pairs,).
    """

    first_relation: Tensor
    first_recency: Tensor
    second_relation: Tensor
    second_other: Tensor
    second_recency: Tensor
    second_count: Tensor
    path_first: Tensor
    path_second: Tensor
    link_query: Tensor
    link_path: Tensor
    link_pair: Tensor
    pair_query: Tensor
    pair_other: Tensor


@dataclass(frozen=True)
class Popularity:
    """The most recent objects of each relation asked about, whoever the subject.

    Attributes:
        relations: The distinct relations, int64 (num_relations,).
        query_row: Which of them each query asks about, int64 (num_queries,).
        row, other, recency, count: Relation, object and buckets of what each relation has, int64 (num_rows,). All that
            is looked up is ascending by row, each object once a row; a part of it is in any order.
    """

    relations: Tensor
    query_row: Tensor
    row: Tensor
    other: Tensor
    recency: Tensor
    count: Tensor


@dataclass(frozen=True)
class History:
    """All that the queries of a snapshot read of the past; None for a part that is switched off."""

    pairs: PairHistory | None
    paths: PathHistory | None
    popularity: Popularity | None
