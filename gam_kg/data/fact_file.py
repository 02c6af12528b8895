"""The file every importer writes: facts as Parquet, whole or absent, whose metadata says where they came from."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gam_kg.errors import DataError


@dataclass(frozen=True)
class ImportSummary:
    """What an importer read and wrote.

    Attributes:
        source: What was imported, as the user named it.
        format: "folder", "table" or "lahman".
        out: The Parquet file.
        num_facts: Rows in `out`.
        splits: Split → rows of it; empty when `out` has no split column or its values were not looked at.
        num_entities: Distinct subjects and objects; None when the input was streamed and not counted.
        num_relations: Distinct relations; None likewise.
        num_duplicates: Rows dropped because the same fact stands earlier in the same split.
        num_in_two_splits: Facts that stand in more than one split at the same timestamp; these are kept.
        renamed: Names given to ids whose own name another id already had.
        notes: Anything else a user should know, in sentences.
    """

    source: str
    format: str
    out: Path
    num_facts: int
    splits: dict[str, int] = field(default_factory=dict)
    num_entities: int | None = None
    num_relations: int | None = None
    num_duplicates: int = 0
    num_in_two_splits: int = 0
    renamed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The summary in sentences, for a terminal."""
        sizes = f"{self.num_facts:,} facts"
        if self.num_entities is not None:
            sizes += f", {self.num_entities:,} entities, {self.num_relations:,} relations"
        lines = [f"{self.source}: {sizes} -> {self.out}"]
        if self.splits:
            lines.append("splits: " + ", ".join(f"{name} {count:,}" for name, count in self.splits.items()))
        if self.num_duplicates:
            lines.append(f"dropped {self.num_duplicates:,} rows that repeat a fact of the same split")
        if self.num_in_two_splits:
            lines.append(f"kept {self.num_in_two_splits:,} facts that stand in two splits at the same timestamp")
        if self.renamed:
            shown = ", ".join(repr(name) for name in self.renamed[:5])
            more = f" and {len(self.renamed) - 5:,} more" if len(self.renamed) > 5 else ""
            lines.append(f"{len(self.renamed):,} ids share a name with an earlier id and became {shown}{more}")
        return [*lines, *self.notes]


def facts_schema(
    timestamp: pa.DataType, metadata: dict[str, str], *, end: pa.DataType | None, split: bool
) -> pa.Schema:
    """Schema of an imported file.

    Args:
        timestamp: Type of the timestamps: int64, date32, timestamp[us] or large_string.
        metadata: Key → text about the source; stored with the prefix `gam_kg.`.
        end: Type of the `end_timestamp` column, None for no such column.
        split: Whether there is a `split` column.
    """
    fields = [pa.field(name, pa.large_string()) for name in ("subject", "relation", "object")]
    fields.append(pa.field("timestamp", timestamp))
    if end is not None:
        fields.append(pa.field("end_timestamp", end))
    if split:
        fields.append(pa.field("split", pa.string()))
    return pa.schema(fields, metadata={f"gam_kg.{key}": value for key, value in metadata.items()})


@contextmanager
def writing_facts(out: Path, schema: pa.Schema) -> Generator[pq.ParquetWriter]:
    """Write beside `out`, and rename to `out` only when the block ends without an error.

    Raises:
        DataError: `out` is a folder or cannot be written.
    """
    if out.is_dir():
        raise DataError(f"{out} is a folder; name the Parquet file to write, for instance {out / 'facts.parquet'}")
    temporary = out.with_name(f".{out.name}.staging-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            yield writer
        temporary.replace(out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
