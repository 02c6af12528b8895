"""The ranks that the best predictor gives to answers when it sees all facts before t; `optimum` says why."""

import numpy as np

from gam_kg.synthetic.generator import NOTHING, GroupFacts, RelationFacts, position_in_series

_PREDICTED, _UNPREDICTED, _OTHER = range(3)  # tiers, by what is predicted for a series: the object, none, another


def object_reciprocals(generated: GroupFacts, index: int) -> np.ndarray:
    """1 / rank of the object of each fact of one of a group's relations, float64 (num_facts,)."""
    facts = generated.facts[index]
    better = generated.popularity.num_before(facts.object, facts.time)
    # The predicted object moves to the front; entities are numbered by popularity.
    moved = (facts.predicted != NOTHING) & (facts.predicted > facts.object)
    return 1 / np.where(facts.predicted == facts.object, 1, 1 + better + moved)


def subject_reciprocals(generated: GroupFacts, index: int) -> np.ndarray:
    """As `object_reciprocals`, of the subject: the mean over the orders within its tier, without the other answers."""
    facts = generated.facts[index]
    sizes = _tiers_of_follows(facts) if index else _tiers_of_series(generated)
    tier = np.where(facts.predicted == NOTHING, _UNPREDICTED, _OTHER)
    tier[facts.predicted == facts.object] = _PREDICTED
    _, query = np.unique(facts.object * _stride(facts) + facts.time, return_inverse=True)
    count = np.bincount(query * 3 + tier, minlength=3 * (query.max(initial=-1) + 1))
    wrong = sizes - count.reshape(-1, 3)[query].T  # candidates that are no answers
    above = (np.cumsum(wrong, 0) - wrong)[tier, np.arange(len(tier))]
    return mean_reciprocal(above, wrong[tier, np.arange(len(tier))] + 1)


def mean_reciprocal(above: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Mean of 1 / rank of each answer that has any place among so many, below others; float64 (num_answers,)."""
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, (above + among).max(initial=0) + 1))])
    return (harmonic[above + among] - harmonic[above]) / among


def _tiers_of_series(generated: GroupFacts) -> np.ndarray:
    """Sizes of the tiers of each fact of a group's first relation, int64 (3, num_facts)."""
    facts, period = generated.facts[0], generated.group.period
    present = np.searchsorted(np.sort(generated.born), facts.time, side="right")
    if not period:
        return np.stack([np.zeros_like(present), present, np.zeros_like(present)])
    stride = _stride(facts)
    if generated.spells:
        base = facts.object * (stride + 1)  # a time more: the next
        same = _num_equal(np.sort(base + facts.time + 1), base + facts.time)
        any_object = _num_equal(np.sort(facts.time), facts.time - 1)
        return np.stack([same, present - any_object, any_object - same])
    position = position_in_series(facts.subject)
    # Every fact except the first few of a series makes an object predicted, until the next fact of the series.
    since = np.flatnonzero(position >= period - 1)
    until = np.flatnonzero(position >= period)
    begun = facts.object[since - (period - 1)] * stride + facts.time[since]
    ended = facts.predicted[until] * stride + facts.time[until]
    same = _num_earlier(begun, facts, stride) - _num_earlier(ended, facts, stride)
    any_object = np.searchsorted(np.sort(facts.time[position == period - 1]), facts.time)
    return np.stack([same, present - any_object, any_object - same])


def _num_earlier(keys: np.ndarray, facts: RelationFacts, stride: int) -> np.ndarray:
    """How many keys (object * stride + time) have the object of each fact and an earlier time."""
    keys, base = np.sort(keys), facts.object * stride
    return np.searchsorted(keys, base + facts.time) - np.searchsorted(keys, base)


def _num_equal(keys: np.ndarray, requested: np.ndarray) -> np.ndarray:
    """How many of the ascending keys equal each requested one."""
    return np.searchsorted(keys, requested, side="right") - np.searchsorted(keys, requested)


def _tiers_of_follows(follows: RelationFacts) -> np.ndarray:
    """Sizes of the tiers of each follow, int64 (3, num_facts): every follow that is possible is a fact."""
    stride = _stride(follows)
    known = follows.predicted != NOTHING
    keys = np.sort((follows.predicted * stride + follows.time)[known])
    same = _num_equal(keys, follows.object * stride + follows.time)
    none, any_object = (np.bincount(follows.time[which], minlength=stride)[follows.time] for which in (~known, known))
    return np.stack([same, none, any_object - same])


def _stride(facts: RelationFacts) -> int:
    """More than any time, so that each (entity, time) has its own entity * stride + time."""
    return int(facts.time.max(initial=0)) + 1
