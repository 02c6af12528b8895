import numpy as np
import pytest
import torch

from gam_kg.errors import EvaluationError
from gam_kg.ops.finite import require_finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_one_number_that_is_not_finite_is_refused_wherever_it_stands(value, make):
    for place in range(6):
        values = [1.0] * 6
        values[place] = value
        with pytest.raises(EvaluationError, match="scores of predict"):
            require_finite(make(values).reshape(2, 3), "scores of predict")


@pytest.mark.parametrize(
    "values", [torch.zeros(0, 3), torch.tensor([3e38, -3e38]), np.zeros((2, 2)), torch.ones(2).half()]
)
def test_finite_numbers_and_none_at_all_pass(values):
    require_finite(values, "scores")
