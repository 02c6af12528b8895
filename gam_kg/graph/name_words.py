"""Words that entity names share: "Police (Australia)" names a kind and a country."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gam_kg.ops.sparse import csr_offsets

_SEPARATORS = re.compile(r"[\s_(),]+")
MIN_ENTITIES = 2


@dataclass(frozen=True)
class NameWords:
    """Which shared words each entity's name has, as CSR.

    Attributes:
        words: The words that at least `MIN_ENTITIES` names have, sorted.
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
            known: Which names count as sharing a word: those of training, so that the words say nothing about later
                entities. None: all.
            words: The words to look for; None finds those that names share.
        """
        split = [sorted({part for part in _SEPARATORS.split(name.casefold()) if part}) for name in names]
        if words is None:
            counted = split if known is None else [parts for parts, one in zip(split, known, strict=True) if one]
            counts = Counter(part for parts in counted for part in parts)
            words = tuple(sorted(part for part, count in counts.items() if count >= MIN_ENTITIES))
        ids = {part: index for index, part in enumerate(words)}
        found = [[ids[part] for part in parts if part in ids] for parts in split]
        length = torch.tensor([len(part) for part in found], dtype=torch.int64)
        word = torch.tensor([word for part in found for word in part], dtype=torch.int64)
        return cls(words, csr_offsets(length), word)
