"""Temporal knowledge-graph embeddings: the library, which never imports Ray.

    >>> import gam_kg
    >>> run = gam_kg.load("runs/demo")
    >>> run.ask("Mike Trout", "plays_center_field_for", at="2018", k=3)

`load` opens a finished run, and `train` makes one of a table of facts, in this process. Both are imported at their
first use, so that importing gam_kg takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gam_kg.api import Run, load
    from gam_kg.api_train import train

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "load", "train"]

_PLACES = {"Run": "gam_kg.api", "load": "gam_kg.api", "train": "gam_kg.api_train"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'gam_kg' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
