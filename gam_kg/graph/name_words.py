"""Words that entities share: of names, as "Police (Australia)" has a kind and a country, and of features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from gam_kg.artifacts import Manifest
from gam_kg.graph.temporal_graph import read_names
from gam_kg.graph.update_chain import Update, sizes
from gam_kg.ingest.feature_words import FILE, mean_weights, only, shared_words
from gam_kg.ingest.names import split_words
from gam_kg.ops.sparse import csr_offsets
from gam_kg.parquet import read_table
from gam_kg.schemas import ENTITY_FEATURES

_ASCII_SEPARATORS = r"[\t-\r\x1c-\x20_(),]+"


@dataclass(frozen=True)
class NameWords:
    """Which shared words each entity has, as CSR. Its features are words too, one for each category, word and number.

    Attributes:
        words: The words that entities share, sorted.
        offsets: int64 (num_entities + 1,).
        word: Word ids, int64 (offsets[-1],), ascending within an entity.
        weight: Of each, float64 (offsets[-1],): one over the number of the name's words, whose rows are thus averaged;
            of features that of ENTITY_FEATURES.
    """

    words: tuple[str, ...]
    offsets: Tensor
    word: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls,
        names: Sequence[str] | pa.ChunkedArray,
        *,
        known: Sequence[bool] | None = None,
        words: Sequence[str] | None = None,
        features: pa.Table | None = None,
    ) -> "NameWords":
        """Find the words of entities.

        Args:
            names: Entity names by id.
            known: Which entities count as sharing a word: those of training, so that the words say nothing about later
                ones. None: all.
            words: The words to look for; None finds those that entities share.
            features: ENTITY_FEATURES. Its words have blanks, which those of names have not.
        """
        of_names = _words_of_names(names, words)
        features = ENTITY_FEATURES.empty_table() if features is None else features
        if words is None:
            words = shared_words(pa.concat_tables([of_names, features]), known)
        found = pa.concat_tables([mean_weights(only(of_names, words)), only(features, words)])
        found = found.append_column("word", pc.index_in(found["feature"], pa.array(words, pa.large_string())))
        found = found.sort_by([("entity_id", "ascending"), ("word", "ascending")])
        return cls(
            tuple(words),
            csr_offsets(torch.from_numpy(np.bincount(found["entity_id"].to_numpy(), minlength=len(names)))),
            torch.from_numpy(found["word"].to_numpy().astype(np.int64)),
            torch.from_numpy(found["weight"].to_numpy().copy()),
        )

    @classmethod
    def stored(
        cls,
        graph: Path,
        manifest: Manifest,
        *,
        of_names: bool,
        known: Sequence[bool] | None = None,
        words: Sequence[str] | None = None,
        updates: Sequence[Update] = (),
    ) -> "NameWords | None":
        """The words of the entities of a `graph/` artifact; None where neither names nor features have some.

        Args:
            graph: Its folder.
            manifest: Its manifest.
            of_names: Whether names have words.
            known: See `of`.
            words: See `of`.
            updates: What was added since; new entities have no features.

        Raises:
            ArtifactError: A file is missing or damaged.
        """
        features = read_features(graph, manifest)
        if not of_names and features is None:
            return None
        num_entities, _ = sizes(manifest, updates)
        names = read_names(graph, "entity", updates) if of_names else [""] * num_entities
        return cls.of(names, known=known, words=words, features=features)


def _words_of_names(names: Sequence[str] | pa.ChunkedArray, words: Sequence[str] | None = None) -> pa.Table:
    """ENTITY_FEATURES of weight one, of some words or all."""
    if words is not None and not words:
        return ENTITY_FEATURES.empty_table()
    texts = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else pa.array(names, pa.large_string())
    # Names of ASCII alone, which most are, Arrow divides as `split_words` does, in a sixth of the time.
    is_ascii = pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
    parts = pc.split_pattern_regex(pc.ascii_lower(texts.filter(pa.array(is_ascii))), _ASCII_SEPARATORS)
    (ascii_rows,), (other_rows,) = np.nonzero(is_ascii), np.nonzero(~is_ascii)
    others = [split_words(texts[row].as_py()) for row in other_rows]
    rows = np.repeat(ascii_rows, pc.list_value_length(parts).to_numpy()), np.repeat(other_rows, [*map(len, others)])
    others_words = pa.array([word for one in others for word in one], pa.large_string())
    every = pa.chunked_array([parts.flatten(), others_words])
    found = pa.table({"row": np.concatenate(rows), "word": every})
    found = found.filter(pc.not_equal(every, "") if words is None else pc.is_in(every, pa.array(words, every.type)))
    if np.bincount(found["row"].to_numpy()).max(initial=0) > 1:  # a name may have a word twice
        found = found.group_by(["row", "word"]).aggregate([])
    return pa.table([*found.columns, np.ones(len(found))], schema=ENTITY_FEATURES)


def read_features(graph: Path, manifest: Manifest) -> pa.Table | None:
    """The ENTITY_FEATURES of a `graph/` artifact, if it has some; raises ArtifactError where they cannot be read."""
    return read_table(graph / FILE) if FILE in manifest.files else None
