"""What `pair_features` says of a pair, found by walking through the past, in exact fractions."""

from fractions import Fraction
from itertools import pairwise

from columns import bin_of
from graphs import Past

from gam_kg.config import HistoryConfig
from gam_kg.history.bins import NEVER
from gam_kg.history.pair_features import PARTS

STREAKS = (1, 2, 3, 4, 5, 6, 8, 11, 16, 24, 32)
SHARES = [Fraction(percent, 100) for percent in (2, 5, 10, 20, 35, 50, 65, 80, 100)]
DISPERSIONS = [Fraction(tenths, 10) for tenths in (11, 15, 20, 30)]
NOVELTIES = [Fraction(thousandths, 1000) for thousandths in (50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999)]
UNSEEN = {"same": (NEVER, 0), "rhythm": (0, 0, 0), "place": (NEVER, 0), "turn": (17, 0, 0), "own_turn": (17, 0, 0)}

Bins = tuple[int, ...]


def unpacked(feature: str, number: int) -> Bins:
    """The bins behind the number of a combination."""
    bins = []
    for size in reversed(PARTS[feature]):
        number, bin_ = divmod(number, size)
        bins.insert(0, bin_)
    assert number == 0
    return tuple(bins)


def rhythm_of(times: set[int], now: int) -> Bins:
    """Bins of phase, dispersion and streak of a fact that was seen at some times."""
    first, last = min(times), max(times)
    gaps = [later - earlier for earlier, later in pairwise(sorted(times))]
    streak = next(length for length in range(1, len(times) + 1) if last - length not in times)
    phase, dispersion = 1, 0
    if gaps:
        over_mean = Fraction((now - last) * len(gaps), last - first)
        phase = 2 + sum(over_mean**2 > Fraction(2) ** half for half in range(-6, 7))
    if len(gaps) > 1:
        square = Fraction(sum(gap**2 for gap in gaps) * len(gaps), (last - first) ** 2)
        dispersion = 1 + sum(square > bound for bound in DISPERSIONS)
    return phase, dispersion, sum(bound <= streak for bound in STREAKS)


def place_of(last: int, count: int, answers: list[tuple[int, int]]) -> Bins:
    """Bins of the place of an answer among (last, count) of all answers."""
    share = Fraction(count, sum(times for _, times in answers))
    return bin_of(max(at for at, _ in answers) - last), sum(share > bound for bound in SHARES)


def turn_of(past: Past, query: tuple[int, int], last: int, num_distinct: int) -> Bins:
    """Bins of the answers that a query has had after a snapshot, of its distinct ones, and of what that says."""
    since = sum(at > last for fact, times in past.seen.items() if fact[:2] == query for at in times)
    return _turn(since, num_distinct)


def own_turn_of(past: Past, relation: int, other: int, last: int) -> Bins:
    """The same of all subjects that have a fact with a relation and an object."""
    of_subjects = [times for fact, times in past.seen.items() if fact[1:] == (relation, other)]
    return _turn(sum(at > last for times in of_subjects for at in times), len(of_subjects))


def _turn(since: int, num_distinct: int) -> Bins:
    others = num_distinct - 1
    return min(since, 16), num_distinct, 0 if since < others else 1 if since == others else 2


def features_of(
    past: Past, query: tuple[int, int], other: int, now: int, config: HistoryConfig
) -> dict[str, Bins] | None:
    """The bins of each feature of a query and a candidate; None where the query reads no fact between them."""
    subject, relation = query
    answers = past.answers_of(subject, relation, config.same_relation)
    by_query = config.same_relation > 0
    facts = [row for row in past.facts_of(subject, config.recent) if not by_query or row[0] != relation]
    read = [row[2:] for row in facts if row[1] == other] + [row[1:] for row in answers if row[0] == other]
    if not read:
        return None
    found = dict(UNSEEN)
    for candidate, last, count in answers:
        if candidate == other:
            found["same"] = bin_of(now - last), bin_of(count)
            found["rhythm"] = rhythm_of(past.seen[subject, relation, other], now)
            found["place"] = place_of(last, count, [row[1:] for row in answers])
            found["turn"] = turn_of(past, query, last, len(answers))
            found["own_turn"] = own_turn_of(past, relation, other, last)
    found["any"] = bin_of(now - max(last for last, _ in read)), bin_of(sum(count for _, count in read)), len(read)
    found["query"] = query_of(answers, now)
    return {
        name: tuple(min(bin_, size - 1) for bin_, size in zip(found[name], PARTS[name], strict=True)) for name in PARTS
    }


def query_of(answers: list[tuple[int, int, int]], now: int) -> Bins:
    """Bins of recency and count of all answers (other, last, count) to a query."""
    if not answers:
        return NEVER, 0, 0
    recency = bin_of(now - max(last for _, last, _ in answers))
    return recency, bin_of(sum(count for _, _, count in answers)), novelty_of([row[1:] for row in answers])


def novelty_of(answers: list[tuple[int, int]]) -> int:
    """Bin of the share of (last, count) of all answers that were new when they came."""
    novelty = Fraction(len(answers), sum(count for _, count in answers))
    return sum(novelty > bound for bound in NOVELTIES)
