"""A thread makes items ahead of their use: all in order, no more than allowed, and it ends with its user."""

import threading
from contextlib import closing
from itertools import count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.errors import ArtifactError
from gam_kg.ops.read_ahead import read_ahead

SECONDS = 60
"""Longer than anything here takes, so that nothing hangs."""


def no_thread_is_left():
    return not any(thread.name == "read-ahead" for thread in threading.enumerate())


@given(st.lists(st.integers(), max_size=20), st.integers(0, 30))
def test_all_items_come_in_order(items, number):
    assert list(read_ahead(iter(items), number)) == items
    assert no_thread_is_left()


@pytest.mark.parametrize("number", [1, 3])
def test_no_more_are_made_ahead_than_allowed(number):
    made, made_another = [], threading.Semaphore(0)

    def items():
        for item in count():
            made.append(item)
            made_another.release()
            yield item

    with closing(read_ahead(items(), number)) as ahead:
        for used in range(5):
            assert next(ahead) == used
            while len(made) < used + 1 + number:  # those allowed are made without being asked for
                assert made_another.acquire(timeout=SECONDS)
            assert not made_another.acquire(timeout=0.05) or len(made) == used + 1 + number
    assert no_thread_is_left()


def test_a_thread_computes_as_its_user_does():
    def items():
        yield torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()

    assert list(read_ahead(items(), 2)) == list(items())


@pytest.mark.parametrize("number", [0, 1, 9])
def test_an_error_comes_where_its_item_would_have(number):
    def items():
        yield from range(3)
        raise ArtifactError("damaged")

    ahead = read_ahead(items(), number)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ArtifactError, match="damaged"):
        next(ahead)
    assert no_thread_is_left()
