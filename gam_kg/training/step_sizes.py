"""Sizes that batches are padded to: few of them, so that most batches have the sizes of one before."""

from collections.abc import Mapping

GROWTH = 1.25
"""Sizes are so many times those of the batch that they are made for."""

MULTIPLE = 32
"""Sizes are multiples of this: small ones would soon be exceeded."""


class StepSizes:
    """The sizes that batches have been padded to.

    Batches that have other dimensions, as those without a window, have sizes of their own.

    Args:
        most: The most items that there are along some dimensions.
        number: Most sizes in use for batches with the same dimensions; then the smallest are given up.
    """

    def __init__(self, most: Mapping[str, int], number: int) -> None:
        self._most, self._number = most, number
        # In ascending order: each is at least that before it along all dimensions.
        self._known: dict[tuple[str, ...], list[dict[str, int]]] = {}

    def fitting(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The smallest known sizes that have room for those of a batch, or new ones."""
        known = self._known.setdefault(tuple(sizes), [])
        for found in known:
            if all(size <= found[name] for name, size in sizes.items()):
                return found
        largest = known[-1] if known else sizes
        new = {name: max(largest[name], self._grown(name, size)) for name, size in sizes.items()}
        known.append(new)
        del known[: -self._number]
        return new

    def _grown(self, name: str, size: int) -> int:
        grown = -(-int(size * GROWTH) // MULTIPLE) * MULTIPLE
        return max(size, min(grown, self._most.get(name, grown)))
