"""As `multi_step`, of the follows of a chain: their leads are hidden, except those of the last visible snapshot.

The fact (s, follow, ?, t) has a lead (s, lead, b, t - 1), and its predicted object is that of b's last lead before t.
"""

import numpy as np

from gam_kg.synthetic import single_step
from gam_kg.synthetic.generator import NOTHING
from gam_kg.synthetic.multi_step import Cut, kind_sizes, rank_kinds

_CELLS = 2_000_000  # scores at once


def object_reciprocals(cut: Cut) -> np.ndarray:
    """1 / rank of the object of each follow in [start, stop), float64 (num_facts,).

    With x and z for the objects of the last visible leads of s and b, there are these ways to an object, before noise:
    s's state is unbroken, b is x, and x's state is unbroken too; b is drawn, and its state z is unbroken; b is drawn
    and is s itself, which is then the object; or else the object is drawn.
    """
    follows = cut.generated.facts[1]
    here = (follows.time >= cut.start) & (follows.time < cut.stop)
    found = single_step.object_reciprocals(cut.generated, 1)[here]
    entities, probability = cut.present
    last = _places(entities, cut.states[np.searchsorted(cut.generated.subjects, entities), 0])
    known = last != NOTHING
    pointed = np.bincount(last[known], probability[known], len(entities))
    unbroken = cut.hidden @ (1 - cut.noise) ** np.arange(len(cut.hidden))  # in a number of slots
    keep, horizon = 1 - cut.noise, follows.time[here] - cut.start + 1
    subject, object = (_places(entities, entity[here]) for entity in (follows.subject, follows.object))
    later = np.flatnonzero(horizon > 1)
    for rows in np.array_split(later, -(-len(later) * len(entities) // _CELLS) or 1):
        row, s, h = np.arange(len(rows)), subject[rows], horizon[rows]
        first = np.where(known[s], keep * unbroken[h - 2], 0)
        both = np.where(known[s], keep * unbroken[2 * h - 3], 0)
        fresh = unbroken[h - 1] - both
        score = fresh[:, None] * pointed
        score[row, last[s]] -= np.where(known[s], fresh * probability[s], 0)
        itself = known[s] & (last[s] == s)
        score[row, s] += (1 - first) * probability[s] + np.where(itself, first, 0)
        second = last[last[s]]
        score[row, second] += np.where(known[s] & ~itself & (second != NOTHING), both, 0)
        score *= keep
        score += (1 - score.sum(1))[:, None] * probability
        found[rows] = 1 / (1 + (score > score[row, object[rows]][:, None]).sum(1))
    return found


def subject_reciprocals(cut: Cut) -> np.ndarray:
    """As `object_reciprocals`, of the subject, by an oracle that knows more where the horizon is above 1.

    It knows of each entity whether the object of its last lead before t is the query's object, another one, or whether
    there is no such lead; so the candidates are independent of each other, which they are not for a predictor.
    """
    follows, leads = cut.generated.facts[1], cut.generated.facts[0]
    here = (follows.time >= cut.start) & (follows.time < cut.stop)
    found = single_step.subject_reciprocals(cut.generated, 1)[here]
    series, object, time = np.searchsorted(cut.generated.subjects, follows.subject), follows.object, follows.time
    visible = cut.states[:, 0]
    state = visible.copy()
    for now in range(cut.start + 1, cut.stop):
        led = leads.time == now - 1
        state[np.searchsorted(cut.generated.subjects, leads.subject[led])] = leads.object[led]
        at = time == now
        if at.any():
            found[at[here]] = _oracle(cut, now - cut.start + 1, visible, state, series[at], object[at])
    return found


_UNKNOWN, _OBJECT, _LEADS_THERE, _LEADS_NOWHERE, _ELSE = range(5)  # what the last visible lead of a series points at


def _oracle(
    cut: Cut, horizon: int, visible: np.ndarray, state: np.ndarray, series: np.ndarray, object: np.ndarray
) -> np.ndarray:
    """1 / rank of the subject of the follows of a snapshot.

    Args:
        cut: The cut.
        horizon: Of the snapshot, above 1.
        visible: Object of the last visible lead of each series or NOTHING, (num_series,).
        state: The same of the last lead before the snapshot, (num_series,).
        series: Of each follow, (num_facts,).
        object: Of each follow, (num_facts,).
    """
    subjects = cut.generated.subjects
    then = np.where(visible == NOTHING, NOTHING, state[np.searchsorted(subjects, visible).clip(max=len(subjects) - 1)])

    def kind(series: np.ndarray, object: np.ndarray) -> np.ndarray:
        x, y = visible[series], then[series]
        choices = [x == NOTHING, x == object, y == NOTHING, y == object]
        place = np.select(choices, [_UNKNOWN, _OBJECT, _LEADS_NOWHERE, _LEADS_THERE], _ELSE)
        return 2 * place + ((state[series] == object) & (object != NOTHING))

    candidates = np.flatnonzero(state != NOTHING)
    objects, query = np.unique(object, return_inverse=True)
    related = np.stack([visible, state, then], 1)[candidates]
    sizes = kind_sizes(kind, objects, candidates, related, 10)
    value = _values(cut, horizon, state, objects)
    return rank_kinds(kind(series, object), query, sizes[query], value[query])


def _values(cut: Cut, horizon: int, state: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Probability that a series of each kind has a lead at the snapshot before and a follow with the object.

    Returns:
        float64 (num_objects, num_kinds).
    """
    subjects, noise, drawn = cut.generated.subjects, cut.noise, cut.popularity(objects)
    density = cut.left[0] / cut.left[1]
    unchanged = (1 - density * noise) ** (horizon - 2)  # until the slot of the lead
    lead = (1 - noise) * unchanged
    probability = cut.popularity(subjects)
    # The object is the query's, by what b's last lead points at: the object, nothing or another.
    there, nowhere, elsewhere = 1 - noise + noise * drawn, drawn, noise * drawn
    place = np.searchsorted(objects, state).clip(max=len(objects) - 1)
    pointed = np.bincount(place, probability * (objects[place] == state), len(objects))
    unled = probability[state == NOTHING].sum()
    own = state[np.searchsorted(subjects, objects)]
    itself = np.select([own == objects, own == NOTHING], [there, nowhere], elsewhere)  # b is the query's object
    others = (1 - noise) * pointed + drawn * (noise * (1 - unled) + unled) - drawn * itself  # b is drawn, and is not
    # If the last visible lead points at the query's object, or not: a lead at the slot points at it, or any last lead.
    stays = lead + (1 - lead) * drawn
    turns = (1 - lead) * drawn
    stays_any = density * stays + (1 - density) * (unchanged + (1 - unchanged) * drawn)
    turns_any = density * turns + (1 - density) * (1 - unchanged) * drawn
    any_lead = 1 - (1 - density) ** (horizon - 1)
    numerators = [others, drawn * itself, (1 - lead) * others, stays * itself]
    denominators = [any_lead * (1 - drawn), any_lead * drawn, 1 - stays_any, stays_any]
    for hit in (there, nowhere, elsewhere):
        numerators += [lead * hit + (1 - lead) * others, turns * itself]
        denominators += [1 - turns_any, turns_any]
    above, below = np.stack(numerators, 1), np.stack(denominators, 1)
    return density * np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _places(entities: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Places of some among the ascending entities; NOTHING for NOTHING."""
    return np.where(chosen == NOTHING, NOTHING, np.searchsorted(entities, chosen))
