import math

import pytest
import torch

from gam_kg.nn.vectors import segment_log_sum, unit, with_selected_rows

index_dtypes = pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])


def test_unit_rows_have_length_one_and_zero_rows_stay():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert unit(x).tolist() == [[torch.tensor(0.6).item(), torch.tensor(0.8).item()], [0, 0]]


def test_zero_rows_get_no_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit(x).sum().backward()
    assert x.grad is not None
    assert x.grad[0].any()
    assert not x.grad[1].any()


def test_unit_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))


@index_dtypes
def test_selected_rows_and_gradients_are_those_of_index_select(index_dtype):
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    indices = [torch.tensor(rows, dtype=torch.int64) for rows in ([4, 0, 4], [], [1])]
    found = with_selected_rows(x, *(index.to(index_dtype) for index in indices))
    expected = (x, *(x.index_select(0, index) for index in indices))
    results = []
    for parts in (found, expected):
        torch.manual_seed(1)
        loss = sum((unit(part) * torch.randn_like(part)).sum() for part in parts)
        results.append((*parts, *torch.autograd.grad(loss, [x])))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@index_dtypes
def test_segments_are_summed_in_logarithms(index_dtype):
    weight = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    segment = torch.tensor([2, 0, 2], dtype=index_dtype)
    expected = [math.log(1 + math.exp(-1.0)), 0.0, math.log(1 + math.exp(0.5) + math.exp(2.0))]
    found = segment_log_sum(weight, segment, 3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda weight: segment_log_sum(weight, segment, 3), (weight,))
