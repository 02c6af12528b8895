from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gam_kg.ops.packing import Packing, on_device
from gam_kg.ops.records import parts_of

DTYPES = [torch.int64, torch.int32, torch.uint8, torch.int16, torch.bool, torch.float32, torch.float64]


@dataclass(frozen=True)
class Record:
    tensors: tuple[Tensor, ...]
    missing: Tensor | None
    size: int


def record_of(shapes, dtypes, seed, size=3):
    generator = torch.Generator().manual_seed(seed)
    tensors = (
        torch.randint(0, 100, shape, generator=generator).to(dtype)
        for shape, dtype in zip(shapes, dtypes, strict=False)
    )
    return Record(tuple(tensors), None, size)


shapes = st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), max_size=7)


@given(shapes, st.permutations(DTYPES), st.integers(0, 9))
def test_a_packed_record_has_all_that_it_had(shapes, dtypes, seed):
    record = record_of(shapes, dtypes, seed)
    found = on_device(record, torch.device("cpu"))
    assert (found.missing, found.size) == (None, 3)
    for value, expected in zip(found.tensors, record.tensors, strict=True):
        is_number = expected.dtype in (torch.bool, torch.float32, torch.float64)
        assert value.dtype == (expected.dtype if is_number else torch.int32)
        assert torch.equal(value, expected.to(value.dtype))


def test_the_tensors_of_a_packed_record_are_views_that_change_with_the_buffer():
    first, second = (record_of([(4,), (2, 3), ()], DTYPES, seed) for seed in (0, 1))
    packing = Packing.of(first)
    buffer = torch.empty(packing.num_bytes, dtype=torch.uint8)
    packing.send(first, buffer)
    views = packing.unpack(buffer)
    packing.send(second, buffer)
    assert not torch.equal(first.tensors[0], second.tensors[0])
    for value, expected in zip(views.tensors, second.tensors, strict=True):
        assert value.untyped_storage().data_ptr() == buffer.data_ptr()
        assert value.data_ptr() % 16 == buffer.data_ptr() % 16
        assert torch.equal(value, expected.to(value.dtype))


def test_tensors_that_are_parts_of_others_are_packed():
    whole = torch.arange(24).view(4, 6)
    record = Record((whole.T, whole[:, 1], whole[::2, ::3], whole[0, :1].expand(5)), None, 0)
    for value, expected in zip(on_device(record, torch.device("cpu")).tensors, record.tensors, strict=True):
        assert value.tolist() == expected.tolist()


def test_packings_are_equal_where_records_differ_only_in_values():
    kind = [torch.int64, torch.float32]
    one = Packing.of(record_of([(3,), (2, 2)], kind, 0))
    assert one == Packing.of(record_of([(3,), (2, 2)], kind, 1))
    assert hash(one) == hash(Packing.of(record_of([(3,), (2, 2)], kind, 1)))
    others = [
        record_of([(3,), (2, 2)], kind, 0, size=4),
        record_of([(3,), (4,)], kind, 0),
        record_of([(4,), (2, 2)], kind, 0),
        record_of([(3,), (2, 2)], [torch.int64, torch.float64], 0),
        Record((torch.zeros(3, dtype=torch.int64), None), None, 3),
    ]
    assert all(Packing.of(other) != one for other in others)


@pytest.mark.parametrize("number", [2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**62])
def test_integers_of_more_than_32_bits_stay_as_they_are(number):
    record = Record((torch.tensor([0, number]), torch.tensor([1])), None, 0)
    first, second = parts_of(on_device(record, torch.device("cpu")), Tensor)
    assert first.dtype == (torch.int32 if -(2**31) <= number < 2**31 else torch.int64)
    assert first.tolist() == [0, number]
    assert second.dtype == torch.int32
