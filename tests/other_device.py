"""A device that is not the CPU, made up of it, on which what mixes the two fails as it does on a GPU.

Its tensors compute on the CPU but say that they are on another device. An operator that gets them together with a
tensor of the CPU fails, as does `numpy()`; allowed are numbers (tensors without dimensions), indices into them, and
copies.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

OTHER = torch.device("meta")
"""What the tensors say; none are really there."""

_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
_COPIES = {"_to_copy", "copy_", "lift_fresh"}


class Elsewhere(Tensor):
    """A tensor on the other device; `here` is the same on the CPU."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        found = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=OTHER,
            requires_grad=here.requires_grad,
        )
        found.here = here
        return found

    def __repr__(self) -> str:
        return f"Elsewhere({self.here})"

    def tolist(self) -> Any:
        return self.here.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl
    __torch_dispatch__ = classmethod(lambda cls, func, types, args=(), kwargs=None: _run(func, args, kwargs or {}))


class _Mode(TorchDispatchMode):
    """So that tensors are made on the other device, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def other_device() -> Generator[torch.device]:
    """Have such a device in the block, in this thread."""
    # This device has no autocast to ask for.
    with _Mode(), patch("torch.is_autocast_enabled", return_value=False):
        yield OTHER


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    is_elsewhere = any(isinstance(one, Elsewhere) for one in tensors)
    if is_elsewhere and name not in _COPIES:
        must = args[:1] if name in _INDEXED and isinstance(args[0], Elsewhere) else tensors
        strangers = [one for one in must if isinstance(one, Tensor) and not isinstance(one, Elsewhere) and one.dim()]
        assert not strangers, f"{name}: expected all tensors on the same device, found one on the CPU as well"
    if name == "copy_":
        is_elsewhere = isinstance(args[0], Elsewhere)
    if (device := kwargs.get("device")) is not None:
        is_elsewhere = torch.device(device) == OTHER
        kwargs = {**kwargs, "device": torch.device("cpu")}
    before = {id(one.here): one for one in tensors if isinstance(one, Elsewhere)}
    values, named = tree_map(lambda one: one.here if isinstance(one, Elsewhere) else one, (args, kwargs))
    if name == "_to_copy" and is_elsewhere != isinstance(args[0], Elsewhere):
        named.pop("pin_memory", None)
    found = func(*values, **named)

    def wrapped(one: Any) -> Any:
        if not isinstance(one, Tensor) or isinstance(one, Elsewhere):
            return one
        return (
            before[id(one)] if id(one) in before else Elsewhere(one)
        )  # an operator in place returns what it was given

    return tree_map(wrapped, found) if is_elsewhere else found
