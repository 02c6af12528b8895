"""Bytes of the history index of a worker, and of finding its rules."""

import numpy as np

from gam_kg.history.bins import NUM_BINS
from gam_kg.history.rule_keys import CELLS_PER_RULE, COUNTED_PER_RULE, MERGED_AT_ONCE
from gam_kg.plan.workload import Workload

FLOAT, LONG, INT = 4, 8, 4
_COUNTED_RULE, _WAITING_HIT = 35, 110  # bytes of a rule that is counted while rules are found; of a waiting hit
_ROOM_FOR_COUNTS = 1.5  # for each pair of relations that has counts, as their tables grow by a half


def history_bytes(facts: float, answers: float, world_size: int = 1) -> float:
    """Bytes of the history index of a rank, exactly.

    Args:
        facts: Distinct (anchor, relation, other) of its entities.
        answers: Distinct (anchor, relation) of its entities.
        world_size: Of several ranks, each has its facts by subject too.
    """

    def keys(number: float) -> float:
        return number * (3 * LONG + 2 * INT + FLOAT)

    def index(number: float) -> float:
        return (4 * number + 1) * (INT if 2 * number < 2**31 else LONG)

    turns = (3 * facts + 2 * answers) * INT
    of_subjects = facts * (2 * LONG + INT) if world_size > 1 else 0
    return keys(facts) + of_subjects + 2 * index(facts) + turns + keys(answers) + index(answers)


def rule_bytes(rules: float, groups: float) -> float:
    """Bytes of the rules of a rank, exactly, of which there are some in some groups; see `RuleTable`."""
    return rules * (LONG + INT) + groups * (LONG + LONG + INT) + LONG


def pair_rule_bytes(pairs: float, exposures: float) -> float:
    """Bytes of the counts of rules of pairs, at most, of some pairs of relations; all ranks have the same.

    Args:
        pairs: Pairs of relations.
        exposures: The sum of all counts, at most; see `PairRules`.
    """
    return (pairs + 1) * (2 * LONG + _ROOM_FOR_COUNTS * 2 * (INT if exposures < 2**31 else LONG) * NUM_BINS)


def history_of_rank(workload: Workload) -> float:
    """Bytes of the largest history index of a rank, of rules as many as there can be."""
    counts, ranks, limits = workload.counts, workload.world_size, workload.config.model.history
    facts, answers = (
        float(np.bincount(np.arange(len(part)) % ranks, part, ranks).max())
        for part in (counts.bucket_facts, counts.bucket_answers)
    )
    rules = rule_bytes(*_rules_and_groups(workload)) if limits.rule_bodies else 0.0
    of_pairs = 0.0
    if limits.rule_confidence:
        exposures = float(counts.queries.sum()) * limits.recent
        of_pairs = pair_rule_bytes(counts.relation_pairs if limits.recent else 0, exposures)
    return history_bytes(facts, answers, ranks) + rules + of_pairs


def _rules_and_groups(workload: Workload) -> tuple[float, float]:
    """Rules of the rank with the most, as many as there can be, and their groups."""
    limits = workload.config.model.history
    exposures, hits = workload.counts.exposures_and_hits(limits)
    found = min(hits / limits.rule_count, limits.max_rules) * _largest_share(workload)
    return found, min(found, exposures)


def _largest_share(workload: Workload) -> float:
    facts, ranks = workload.counts.bucket_facts, workload.world_size
    return float(np.bincount(np.arange(len(facts)) % ranks, facts, ranks).max()) / max(1, facts.sum())


def finding_bytes(workload: Workload) -> float:
    """Bytes of a rank while rules are found, beyond those of the rules in the end; see `rule_keys.frequent`."""
    limits = workload.config.model.history
    if not limits.rule_bodies:
        return 0.0
    _, hits = workload.counts.exposures_and_hits(limits)
    share, counted = _largest_share(workload), min(hits, COUNTED_PER_RULE * limits.max_rules)
    waiting = min(hits, max(MERGED_AT_ONCE, counted / 4))
    cells = CELLS_PER_RULE * limits.max_rules if hits > counted else 0
    took = share * (counted * _COUNTED_RULE + waiting * _WAITING_HIT + cells * INT)
    return max(0.0, took - rule_bytes(*_rules_and_groups(workload)))
