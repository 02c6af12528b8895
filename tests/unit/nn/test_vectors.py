import math

import torch

from gam_kg.nn.vectors import segment_log_sum, unit


def test_unit_rows_have_length_one_and_zero_rows_stay():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert unit(x).tolist() == [[torch.tensor(0.6).item(), torch.tensor(0.8).item()], [0, 0]]


def test_unit_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))


def test_segments_are_summed_in_logarithms():
    weight, segment = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), torch.tensor([2, 0, 2])
    expected = [math.log(1 + math.exp(-1.0)), 0.0, math.log(1 + math.exp(0.5) + math.exp(2.0))]
    found = segment_log_sum(weight, segment, 3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
