"""Rules of both kinds, counted by walking through the past in plain Python, and what they say together."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from columns import bin_of
from graphs import Fact, Past


def rules_by_hand(rows: Sequence[Fact], end: int, num_bodies: int) -> tuple[Counter, Counter]:
    """Trials of (r', c', r) and hits of (r', c', r, c) in the snapshots before `end`."""
    exposures, hits = Counter(), Counter()
    for time in range(end):
        past, answers = Past(rows, time), defaultdict(set)
        for subject, relation, answer in Past([row for row in rows if row[3] == time], time + 1).seen:
            answers[subject, relation].add(answer)
        for (subject, relation), found in answers.items():
            for body_relation, entity, _, _ in past.facts_of(subject, num_bodies):
                exposures[body_relation, entity, relation] += 1
                hits.update((body_relation, entity, relation, answer) for answer in found)
    return exposures, hits


def pair_rules_by_hand(rows: Sequence[Fact], end: int, limit: int) -> tuple[Counter, Counter]:
    """Exposures and hits of (r, r', recency of the past fact) in the snapshots before `end`."""
    exposures, hits = Counter(), Counter()
    for time in range(end):
        past, now = Past(rows, time), Past([row for row in rows if row[3] == time], time + 1)
        for subject, relation in {(s, r) for s, r, _ in now.seen}:
            for seen, other, last, _ in past.facts_of(subject, limit):
                kind = relation, seen, bin_of(time - last)
                exposures[kind] += 1
                hits[kind] += (subject, relation, other) in now.seen
    return exposures, hits


def together_by_hand(of_pair: Sequence[float], shared: Sequence[float], most: int = 10) -> float:
    """How likely it is that one of the rules that lead to a pair holds, of their confidences by kind."""

    def joined(confidences: Sequence[float]) -> float:
        best = sorted(confidences, reverse=True)[:most]
        return 1 - math.prod(1 - 0.8**index * confidence for index, confidence in enumerate(best))

    return 1 - (1 - joined(of_pair)) * (1 - joined(shared) / 2)
