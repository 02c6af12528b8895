"""What hypothesis draws for tests of the past."""

from graphs import NUM_RELATIONS
from hypothesis import strategies as st

# Few entities, so that facts, pairs and whole paths recur.
recurring_facts = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, NUM_RELATIONS - 1), st.integers(0, 4), st.integers(0, 7)), max_size=60
)
limits = st.sampled_from([0, 1, 2, 3, 50])
horizons = st.sampled_from([1, 2, 5])
