"""The precision of products of float32 tensors on a GPU, which torch has as settings of the whole process."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from gam_kg.errors import ConfigError


def require_precision(precision: str, *, use_gpu: bool) -> None:
    """Refuse a `train.precision` that would have no effect.

    Raises:
        ConfigError: It is tf32, on a CPU.
    """
    if precision == "tf32" and not use_gpu:
        raise ConfigError(
            "train.precision=tf32 is a precision of GPUs and has no effect on a CPU: train with train.use_gpu=true, or "
            "set train.precision to float32 or bf16"
        )


@contextmanager
def float32_products(*, tf32: bool = False) -> Generator[None]:
    """Products and convolutions of float32 tensors in the block have its precision, or TF32 on GPUs that have it.

    torch by default uses TF32 for convolutions, and other code of the process may have set it for products. Its
    settings are put back after the block.
    """
    with ExitStack() as stack:
        for part, name, value in _settings(tf32=tf32):
            stack.callback(setattr, part, name, getattr(part, name))
            setattr(part, name, value)
        yield


def _settings(*, tf32: bool) -> list[tuple[Any, str, Any]]:
    """Objects, their attributes, and the values that these must have."""
    backends: Any = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # from torch 2.9 on
        value = "tf32" if tf32 else "ieee"
        return [(part, "fp32_precision", value) for part in (backends.cuda.matmul, backends.cudnn.conv)]
    return [(part, "allow_tf32", tf32) for part in (backends.cuda.matmul, backends.cudnn)]
