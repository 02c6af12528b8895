"""Anchored facts: every fact stored once at its object and, under the inverse relation, once at its subject.

Partitioned by anchor, an owner of an entity has all of the entity's messages, questions and history without asking
anyone. Buckets are the stored parts; a worker takes the buckets `b % world_size == rank`, so one prepared graph
serves every world size. Ids descend in degree, so `id % buckets` spreads the heavy entities evenly.
"""

import numpy as np


def anchored_facts(
    subject: np.ndarray, relation: np.ndarray, object: np.ndarray, num_relations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two anchored facts of each fact.

    Args:
        subject: Entity ids, shape (num_facts,).
        relation: Relation ids in [0, num_relations), shape (num_facts,).
        object: Entity ids, shape (num_facts,).
        num_relations: Relations, without the inverse ones.

    Returns:
        (anchor, relation, other), each of shape (2 * num_facts,): row i is (object, r, subject) of fact i, and row
        num_facts + i is (subject, inverse of r, object).
    """
    return (
        np.concatenate([object, subject]),
        np.concatenate([relation, inverse(relation, num_relations)]),
        np.concatenate([subject, object]),
    )


def inverse(relation: np.ndarray, num_relations: int) -> np.ndarray:
    """Inverse relations; the inverse of an inverse is the relation itself.

    Args:
        relation: Ids in [0, 2 * num_relations).
        num_relations: Relations, without the inverse ones.
    """
    return np.where(relation < num_relations, relation + num_relations, relation - num_relations)


def bucket_of(entity_id: np.ndarray, buckets: int) -> np.ndarray:
    """The bucket that stores each entity's anchored facts, in [0, buckets)."""
    return entity_id % buckets


def buckets_of_rank(buckets: int, rank: int, world_size: int) -> np.ndarray:
    """The buckets a rank reads, ascending; empty for ranks beyond the number of buckets.

    Raises:
        ValueError: The rank is not in [0, world_size).
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} must be in [0, world_size={world_size})")
    return np.arange(rank, buckets, world_size)
