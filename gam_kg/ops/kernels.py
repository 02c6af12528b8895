"""Whether the GPU kernels of this package, which are written in Triton, do the work of functions of torch."""

import logging
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

logger = logging.getLogger("gam_kg")
SWITCH = "GAM_KG_KERNELS"
"""An environment variable: 0 leaves all work to torch."""


def random_kernels(x: Tensor) -> ModuleType | None:
    """The module `random_kernels`, if its kernels work for this matrix here; else None, and torch does the work.

    They work for float32 and float64 on a CUDA device, where Triton is installed and can compile.
    """
    if not x.is_cuda or x.dtype not in (torch.float32, torch.float64):
        return None
    return _random_kernels_on(x.device)


@cache
def _random_kernels_on(device: torch.device) -> ModuleType | None:
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        from gam_kg.ops import random_kernels

        random_kernels.try_out(device)
    except ModuleNotFoundError:  # torch brings Triton along for CUDA on Linux, and not elsewhere
        return None
    except Exception as error:  # Triton runs a C compiler and a driver, which may fail in any way
        logger.warning("warning: dropout runs without its kernel, which is slower on a GPU: %s", error)
        return None
    return random_kernels
