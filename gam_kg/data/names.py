"""Words that entity names share: "Police (Australia)" tells a kind and a country."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.data.ragged import ragged_ranges

_SEPARATORS = re.compile(r"[\s_(),]+")
MIN_ENTITIES = 2


@dataclass(frozen=True)
class NameWords:
    """Which shared words each entity's name has, as CSR.

    Attributes:
        words: The words that at least `MIN_ENTITIES` names hold, sorted.
        offsets: int64 (num_entities + 1,).
        word: Word ids, int64 (offsets[-1],), ascending within an entity.
    """

    words: tuple[str, ...]
    offsets: Tensor
    word: Tensor

    @classmethod
    def of(
        cls, names: list[str], *, known: Sequence[bool] | None = None, words: tuple[str, ...] | None = None
    ) -> "NameWords":
        """Split names at blanks, underscores, brackets and commas; case is ignored.

        Args:
            names: Entity names by id.
            known: Which names count in finding shared words: those of training, so that no other is told of. None: all.
            words: The words to look for; None finds those that names share.
        """
        split = [sorted({part for part in _SEPARATORS.split(name.casefold()) if part}) for name in names]
        if words is None:
            counted = split if known is None else [parts for parts, one in zip(split, known, strict=True) if one]
            counts = Counter(part for parts in counted for part in parts)
            words = tuple(sorted(part for part, count in counts.items() if count >= MIN_ENTITIES))
        ids = {part: index for index, part in enumerate(words)}
        found = [[ids[part] for part in parts if part in ids] for parts in split]
        offsets = torch.zeros(len(names) + 1, dtype=torch.int64)
        offsets[1:] = torch.cumsum(torch.tensor([len(part) for part in found], dtype=torch.int64), 0)
        return cls(words, offsets, torch.tensor([word for part in found for word in part], dtype=torch.int64))

    def select(self, entities: Tensor) -> "NameWords":
        """The words of some entities' names, in the order given.

        Args:
            entities: int64 (num_selected,).
        """
        first, length = self.offsets[entities], self.offsets[entities + 1] - self.offsets[entities]
        _, position = ragged_ranges(first, length)
        offsets = torch.cat([length.new_zeros(1), torch.cumsum(length, 0)])
        return NameWords(self.words, offsets, self.word[position])
