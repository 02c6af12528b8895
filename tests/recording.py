"""Recordings of operators on a CPU, replayed as a CUDA graph is: every number of the program is as it was."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

SYNCHRONISING = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "nonzero_static",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "histc",
    "repeat_interleave.Tensor",
    "lift_fresh",
}
"""Operators for which a GPU and the program wait for one another, or that make a tensor of a number of the program."""


@dataclass(frozen=True)
class Call:
    """An operator that was called.

    Attributes:
        operator: The operator.
        args, kwargs: What it was called with.
        outputs: The tensors that it returned.
    """

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]

    @property
    def name(self) -> str:
        """As "index_add" or, if it is not the default one of its name, "where.self"."""
        name, overload = self.operator.overloadpacket.__name__, self.operator._overloadname
        return name if overload == "default" else f"{name}.{overload}"

    def again(self) -> None:
        """Call the operator with the numbers that its arguments have now, and write what it returns where it was."""
        found = tensors_of(self.operator(*self.args, **self.kwargs))
        for output, new in zip(self.outputs, found, strict=True):
            if output.data_ptr() != new.data_ptr():
                output.view(new.shape).copy_(new)  # `squeeze_` may have changed the shape

    def described(self) -> tuple[Any, ...]:
        """The operator with all that a recording fixes: shapes and numbers, and not what tensors have in them."""
        leaves, structure = tree_flatten((self.args, self.kwargs))
        described: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                layout = leaf.stride() if leaf.layout == torch.strided else leaf.layout
                described.append((leaf.shape, leaf.dtype, layout))
            else:  # torch's own objects have no equality
                described.append(type(leaf) if isinstance(leaf, torch.ScriptObject) else leaf)
        return self.name, described, structure


class Operators(TorchDispatchMode):
    """Notes the operators that are called, those of back-propagation among them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.calls.append(Call(func, args, kwargs, tensors_of(result)))
        return result

    @property
    def counts(self) -> Counter[str]:
        """How often each was called."""
        return Counter(call.name for call in self.calls)

    @property
    def synchronising(self) -> Counter[str]:
        """How often each was called for which a GPU would wait, or the program for it."""
        return Counter(call.name for call in self.calls if _synchronises(call))


def _synchronises(call: Call) -> bool:
    if call.name in SYNCHRONISING or call.operator.overloadpacket.__name__ in SYNCHRONISING:
        return True
    if call.operator.overloadpacket.__name__ in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in call.args[1])
    return False


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in what an operator returns; of sparse ones their two parts."""
    found = [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
    parts = [(one._indices(), one._values()) if one.is_sparse else (one,) for one in found]
    return [part for of_one in parts for part in of_one]


@dataclass
class OperatorRecorder:
    """A `Recorder` on a CPU.

    Attributes:
        recorded: The operators of each recording.
        rehearsals, replays: How often work was done without a recording, and from one.
    """

    recorded: list[Operators] = field(default_factory=list)
    rehearsals: int = 0
    replays: int = 0

    def rehearse(self, work: Callable[[], None]) -> None:
        self.rehearsals += 1
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        operators = Operators()
        with operators:
            work()
        self.recorded.append(operators)

        @torch.no_grad()
        def replay() -> None:
            self.replays += 1
            for call in operators.calls:
                call.again()

        return replay
