import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.metrics.summary import RankSummary

ranks = st.lists(st.integers(2, 60).map(lambda twice: twice / 2), max_size=30)


@given(ranks, ranks, ranks)
def test_merged_summaries_are_the_summary_of_all_ranks(one, two, three):
    parts = [RankSummary.of(np.array(part, dtype=np.float64)) for part in (one, two, three)]
    whole = RankSummary.of(np.array(one + two + three, dtype=np.float64))
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(RankSummary())
    assert (merged.count, merged.hits) == (whole.count, whole.hits)
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)


@given(ranks.filter(len))
def test_metrics_are_means_over_ranks(values):
    found = RankSummary.of(np.array(values)).compute()
    expected = {f"hits@{k}": sum(rank <= k for rank in values) / len(values) for k in (1, 3, 10)}
    expected |= {"mrr": sum(1 / rank for rank in values) / len(values), "count": len(values)}
    assert found == pytest.approx(expected)


def test_no_ranks_are_zero():
    assert RankSummary().compute() == {"mrr": 0, "hits@1": 0, "hits@3": 0, "hits@10": 0, "count": 0}
    assert RankSummary.of(np.zeros(0)) == RankSummary()
