"""Sizes that batches are padded to: few of them, so that most batches have the sizes of one before."""

from gam_kg.ops.joined import Sizes

_GROWTH, _MULTIPLE = 1.25, 32


class StepSizes:
    """The sizes that batches have been padded to.

    New ones are a quarter more than those of the batch that they are made for, in multiples of 32, and not less than
    any before. Batches that have other dimensions, as those without a window, have sizes of their own.

    Args:
        most: How many sizes batches with the same dimensions may have; the smallest are given up for new ones.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # In ascending order: each is at least that before it along all dimensions.
        self._known: dict[tuple[str, ...], list[Sizes]] = {}

    def above(self, sizes: Sizes) -> Sizes:
        """The smallest known sizes that are more than those of a batch along all dimensions, or new ones."""
        known = self._known.setdefault(tuple(sizes), [])
        for found in known:
            if all(size < found[name] for name, size in sizes.items()):
                return found
        largest = known[-1] if known else sizes
        known.append({name: max(largest[name], _grown(size)) for name, size in sizes.items()})
        del known[: -self._most]
        return known[-1]


def _grown(size: int) -> int:
    return -(-int(size * _GROWTH + 1) // _MULTIPLE) * _MULTIPLE
