"""How new an answer is: whether it was seen with its query, or with its subject, before."""

import torch
from torch import Tensor

from gam_kg.history.index import HistoryIndex
from gam_kg.ops.ragged import find_keys, unique, unique_inverse
from gam_kg.schemas import STRATA


def novelty_of(history: HistoryIndex, subject: Tensor, row: Tensor, times_seen: Tensor) -> Tensor:
    """The stratum that an evaluation would give each answer, index into `schemas.STRATA`, int64 (num_answers,).

    Args:
        history: The past before the queries, undivided.
        subject: Known entity of each answer's query, int64 (num_answers,).
        row: Row of each answer in the history's shard, int64 (num_answers,).
        times_seen: In how many snapshots each answer was one to its query before, int64 (num_answers,).
    """
    subjects, of_answer = unique_inverse(subject)
    past = history.by_subject.recent(subjects)
    pairs = unique(past.row * history.num_rows + past.item % history.num_rows)
    _, together = find_keys(pairs, of_answer * history.num_rows + row)
    found = torch.where(together, STRATA.index("pair_only"), STRATA.index("cold"))
    return torch.where(times_seen > 0, STRATA.index("recurrent"), found)
