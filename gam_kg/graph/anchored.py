"""Anchored facts: every fact stored once at its object and, under the inverse relation, once at its subject.

Partitioned by anchor, the owner of an entity has all of the entity's messages, queries and history without
communication. Buckets are the stored parts; a rank takes the buckets `b % world_size == rank`, so one prepared graph
serves every world size. Ids descend in degree, so `id % buckets` spreads the entities of high degree evenly.
"""

import numpy as np


def anchored_facts(
    subject: np.ndarray, relation: np.ndarray, object: np.ndarray, num_relations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two anchored facts of each fact, from ids of shape (num_facts,), with relations in [0, num_relations).

    Returns:
        (anchor, relation, other), each of shape (2 * num_facts,): row i is (object, r, subject) of fact i, and row
        num_facts + i is (subject, inverse of r, object).
    """
    return (
        np.concatenate([object, subject]),
        np.concatenate([relation, relation + num_relations]),
        np.concatenate([subject, object]),
    )


def bucket_of(entity_id: np.ndarray, buckets: int) -> np.ndarray:
    """The bucket that stores each entity's anchored facts, in [0, buckets)."""
    return entity_id % buckets


def buckets_of_rank(buckets: int, rank: int, world_size: int) -> np.ndarray:
    """The buckets that a rank reads, ascending; empty for ranks beyond the number of buckets.

    Raises:
        ValueError: The rank is not in [0, world_size).
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} must be in [0, world_size={world_size})")
    return np.arange(rank, buckets, world_size)
