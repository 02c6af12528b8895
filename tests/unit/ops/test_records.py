from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gam_kg.ops.packing import on_device as packed
from gam_kg.ops.records import map_tensors, narrowed, num_bytes

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Inner:
    values: Tensor
    missing: Tensor | None
    size: int


@dataclass(frozen=True)
class Outer:
    parts: tuple[Inner, ...]
    pair: tuple[Tensor, tuple[str, Tensor]]
    counts: list[int]
    names: dict[str, Any]


def record():
    inner = [Inner(torch.arange(number), None, number) for number in (3, 0)]
    return Outer(tuple(inner), (torch.tensor([True]), ("name", torch.tensor([0.5]))), [1, 2], {"key": "value"})


def test_every_tensor_of_a_record_is_changed_and_nothing_else():
    before, seen = record(), []

    def negative(value):
        seen.append(value)
        return -value if value.dtype != torch.bool else ~value

    found = map_tensors(before, negative)
    assert isinstance(found, Outer)
    assert all(isinstance(part, Inner) for part in found.parts)
    assert [value.tolist() for value in seen] == [[0, 1, 2], [], [True], [0.5]]
    assert [part.values.tolist() for part in found.parts] == [[0, -1, -2], []]
    assert [(part.missing, part.size) for part in found.parts] == [(None, 3), (None, 0)]
    assert found.pair[0].tolist() == [False]
    assert found.pair[1][0] == "name"
    assert found.pair[1][1].tolist() == [-0.5]
    assert found.counts is before.counts
    assert found.names is before.names
    assert before.parts[0].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [None, 3, "text", [1, 2], ()])
def test_what_has_no_tensor_stays(value):
    assert map_tensors(value, torch.neg) == value
    assert num_bytes(value) == 0


@pytest.mark.parametrize(
    ("values", "narrowest", "on_device"),
    [
        ([], torch.uint8, torch.int32),
        ([0, 255], torch.uint8, torch.int32),
        ([-1], torch.int16, torch.int32),
        ([256], torch.int16, torch.int32),
        ([-(2**15), 2**15 - 1], torch.int16, torch.int32),
        ([2**15], torch.int32, torch.int32),
        ([-(2**15) - 1], torch.int32, torch.int32),
        ([-(2**31), 2**31 - 1], torch.int32, torch.int32),
        ([2**31, 0], torch.int64, torch.int64),
        ([0, -(2**31) - 1], torch.int64, torch.int64),
        ([2**63 - 1, -(2**63)], torch.int64, torch.int64),
    ],
)
@pytest.mark.parametrize("shape", [(-1,), (1, -1)])
def test_integers_are_in_the_first_type_that_fits_all_of_them(values, narrowest, on_device, shape):
    tensor = torch.tensor(values, dtype=torch.int64).reshape(shape)
    for (found,), expected in ((narrowed((tensor,)), narrowest), (packed((tensor,), CPU), on_device)):
        assert found.dtype == expected
        assert torch.equal(found.long(), tensor)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, torch.bfloat16])
def test_other_types_stay(dtype):
    value = torch.tensor([0, 1]).to(dtype)
    assert narrowed(value) is value


def test_what_is_narrow_may_be_widened_again():
    found = packed(narrowed(torch.tensor([0, 255])), CPU)
    assert found.dtype == torch.int32
    assert found.tolist() == [0, 255]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_narrowed_integers_are_the_same(values):
    tensor = torch.tensor(values, dtype=torch.int64)
    assert narrowed(tensor).tolist() == packed(tensor, CPU).tolist() == values


def test_bytes_are_those_of_all_tensors():
    assert num_bytes(record()) == 3 * 8 + 1 + 4
    assert num_bytes(narrowed(record())) == 3 + 1 + 4
    assert num_bytes(packed(record(), CPU)) == 3 * 4 + 1 + 4
