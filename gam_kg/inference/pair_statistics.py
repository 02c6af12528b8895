"""The statistics of the past of a pair that its pattern is scored by, before they are put into bins."""

import torch
from torch import Tensor

from gam_kg.history.index import HistoryIndex
from gam_kg.history.walks import Joined, LastFacts
from gam_kg.ops.ragged import find_keys


def pair_statistics(history: HistoryIndex, joined: Joined, pairs: Tensor) -> dict[str, Tensor]:
    """What `gam_kg.history.pair_features` reads of some pairs.

    Args:
        history: The index, as it was when the past of the queries was found.
        joined: The past of the queries, with all candidates.
        pairs: `query * num_rows + row`, int64 (num_pairs,), pairs of `joined.facts`.

    Returns:
        By name, (num_pairs,) each. Of the fact with the relation of the query: times_seen and last_seen (0 and -1:
        never), streak, mean_gap (0: seen once), since (answers of the query after it), distinct (answers that the query
        has had), share (of the counts of all its answers). Of the facts with any relation: facts (their counts added
        up), last_fact and relations.
    """
    found, walks = joined.found, joined.facts
    assert walks is not None
    same, table, num_rows = found.same_relation, history.facts, found.num_rows
    number = same.row * num_rows + same.item
    ascending, order = torch.sort(number)
    place, known = find_keys(ascending, pairs)
    at = order[place[known]]
    fact = same.place[at]

    def of_known(values: Tensor, never: float = 0) -> Tensor:
        return torch.full((len(pairs),), never, dtype=values.dtype).masked_scatter_(known, values)

    count, query = same.count[at], same.row[at]
    gaps = (count - 1).clamp(min=1)
    last_facts, column = LastFacts.of(found, found.recent, same), walks.pattern.column
    of_pair, _ = find_keys(joined.pairs[0], pairs)
    every = torch.zeros(walks.num_pairs, dtype=torch.int64)
    counted, relations = (
        every.index_add(0, walks.pair, last_facts.count[column]),
        torch.bincount(walks.pair, minlength=len(every)),
    )
    latest = (every - 1).scatter_reduce(0, walks.pair, last_facts.last[column], "amax")
    since = history.turns.of_query(history.query_key(found.groups.queries), same.row, same.place)
    return {
        "times_seen": of_known(count),
        "last_seen": of_known(same.last[at], -1),
        "streak": of_known(table.streak[fact].long()),
        "mean_gap": of_known((same.last[at] - table.first[fact]).double() / gaps),
        "since": of_known(since[at].long()),
        "distinct": found.answers.distinct[pairs // num_rows],
        "share": of_known(count.double() / found.answers.count[query]),
        "facts": counted[of_pair],
        "last_fact": latest[of_pair],
        "relations": relations[of_pair],
    }
