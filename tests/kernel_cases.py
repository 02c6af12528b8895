"""What kernels must do, on any device: on a CPU they run in Triton's interpreter, `TRITON_INTERPRET=1`."""

import torch

from gam_kg.nn import dropout as by_torch
from gam_kg.ops import random_kernels
from gam_kg.ops.counter_rng import RowRNG

SHAPES = (0, 5), (3, 0), (1, 1), (1, 300), (9, 200), (33, 7), (700, 257)
SHARE = 0.3
LOW, HIGH = by_torch._LOW, by_torch._HIGH


def check_random(device):
    """Values and gradients of the random kernels are those of torch, to the last bit."""
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        for dtype in (torch.float32, torch.float64):
            for integer in (torch.int32, torch.int64):
                x, grad = (torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(2))
                x.view(-1)[::5] = 0
                hashes = torch.randint(-(2**31), 2**31, (2, shape[0]), generator=generator).to(integer)
                case = shape, dtype, integer
                _check(x.to(device), grad.to(device), RowRNG(("a", "b"), hashes.to(device)), case)
                _check(
                    x.T.contiguous().T.to(device),
                    grad[:1].expand(shape).to(device),
                    RowRNG(("a", "b"), hashes.to(device)),
                    case,
                )


def _check(x, grad, rng, case):
    with torch.no_grad():
        mask = rng.dropout_mask(x.shape[1], SHARE, "b").to(x.dtype).mul_(1 / (1 - SHARE))
        slope = rng.uniform(x.shape[1], "b").mul_(HIGH - LOW).add_(LOW).to(x.dtype)
    kernels = {
        "dropout": (lambda x: random_kernels.dropout(x, SHARE, rng, "b"), mask),
        "rrelu": (lambda x: random_kernels.rrelu(x, LOW, HIGH, rng, "b"), torch.where(x >= 0, 1, slope)),
    }
    for name, (kernel, factor) in kernels.items():
        leaf = x.clone().requires_grad_()
        found = kernel(leaf)
        found.backward(grad)
        assert torch.equal(found, x * factor), (name, case)
        assert torch.equal(leaf.grad, grad * factor), (name, case)
        assert found.dtype == x.dtype, (name, case)
