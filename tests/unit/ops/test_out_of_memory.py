"""Memory that runs out is an error for the user, which says where, how much was needed, and what needs less."""

import numpy as np
import pytest
import torch

from gam_kg.errors import OutOfMemoryError
from gam_kg.ops.out_of_memory import naming_knobs

OF_CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.25 GiB is "
    "free. Process 1 has 77.85 GiB memory in use. Of the allocated memory 76.00 GiB is allocated by PyTorch, and 1.00 "
    "GiB is reserved by PyTorch but unallocated."
)


def raising(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (
            lambda: raising(torch.OutOfMemoryError(OF_CUDA)),
            "scoring: the memory of the GPU ran out: 20.00 GiB more were needed, and of its 79.11 GiB there were "
            "1.25 GiB free. What needs less: a.b=1; or fewer; or compute on the CPU (train.use_gpu=false)",
        ),
        (
            lambda: raising(torch.OutOfMemoryError("other words")),
            "scoring: the memory of the GPU ran out. What needs less: a.b=1; or fewer; or compute on the CPU",
        ),
        (lambda: raising(RuntimeError("CUDA error: out of memory\nmore")), "the memory of the GPU ran out. What"),
        (
            lambda: raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when")),
            "the memory of the GPU ran out.",
        ),
        (
            lambda: torch.empty(2**60),
            "scoring: the memory of this machine ran out: 4,294,967,296.00 GiB more were needed. What needs less: "
            "a.b=1; or fewer",
        ),
        (lambda: np.empty(2**58), "the memory of this machine ran out (Unable to allocate 2.00 EiB for an array"),
        (lambda: raising(MemoryError()), "the memory of this machine ran out. What needs less: a.b=1; or fewer"),
    ],
)
def test_the_message_has_what_was_needed_and_what_needs_less(work, message: str) -> None:
    with pytest.raises(OutOfMemoryError) as raised, naming_knobs(lambda: "scoring", "a.b=1", "fewer"):
        work()
    assert message in str(raised.value)
    assert ("train.use_gpu" in str(raised.value)) == ("of the GPU" in message)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^the sizes differ$"), naming_knobs(lambda: "scoring"):
        raise RuntimeError("the sizes differ")
    with naming_knobs(lambda: "scoring"):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_whose_memory_runs_out_says_so() -> None:
    with pytest.raises(OutOfMemoryError, match=r"GPU ran out: .* more were needed, and of its"), naming_knobs(str):
        torch.empty(2**44, device="cuda")
