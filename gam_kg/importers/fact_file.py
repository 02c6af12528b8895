"""The file every importer writes: facts as Parquet, whole or absent, with their source in its metadata."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gam_kg.errors import OutputError
from gam_kg.output import replacing
from gam_kg.parquet import open_writer


@dataclass(frozen=True)
class ImportSummary:
    """What an importer read and wrote.

    Attributes:
        source: What was imported, as the user named it.
        out: The Parquet file.
        num_facts: Rows in `out`.
        splits: Split → rows of it; empty when `out` has no split column or its values were not looked at.
        num_entities: Distinct subjects and objects; None when the input was streamed and not counted.
        num_relations: Distinct relations; None likewise.
        num_duplicates: Rows dropped because the same fact is earlier in the same split.
        num_empty: Rows dropped because all cells of the columns that are read are empty.
        num_stripped: Names that lost white space or control characters around them.
        num_in_two_splits: Facts in more than one split at the same timestamp; they are not dropped.
        renamed: Names given to ids whose own name another id already had.
        notes: Anything else a user should know, in sentences.
    """

    source: str
    out: Path
    num_facts: int
    splits: dict[str, int] = field(default_factory=dict)
    num_entities: int | None = None
    num_relations: int | None = None
    num_duplicates: int = 0
    num_empty: int = 0
    num_stripped: int = 0
    num_in_two_splits: int = 0
    renamed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The summary in sentences."""
        sizes = f"{self.num_facts:,} facts"
        if self.num_entities is not None:
            sizes += f", {self.num_entities:,} entities, {self.num_relations:,} relations"
        lines = [f"{self.source}: {sizes} -> {self.out}"]
        if self.splits:
            lines.append("splits: " + ", ".join(f"{name} {count:,}" for name, count in self.splits.items()))
        if self.num_duplicates:
            lines.append(f"dropped {self.num_duplicates:,} rows that repeat a fact of the same split")
        if self.num_empty:
            lines.append(f"dropped {self.num_empty:,} rows whose cells are all empty")
        if self.num_stripped:
            lines.append(f"stripped white space or control characters around {self.num_stripped:,} names")
        if self.num_in_two_splits:
            lines.append(f"{self.num_in_two_splits:,} facts are in two splits at the same timestamp; none was dropped")
        if self.renamed:
            shown = ", ".join(repr(name) for name in self.renamed[:5])
            more = f" and {len(self.renamed) - 5:,} more" if len(self.renamed) > 5 else ""
            lines.append(f"{len(self.renamed):,} ids share a name with an earlier id and became {shown}{more}")
        return [*lines, *self.notes]


def facts_schema(metadata: dict[str, str], columns: dict[str, pa.DataType]) -> pa.Schema:
    """Schema of an imported file.

    Args:
        metadata: Key → text about the source; stored with the prefix `gam_kg.`.
        columns: Types of the columns after subject, relation and object: `timestamp` (int64, date32, timestamp[us] or
            large_string), and `end_timestamp` and `split` if present.
    """
    names = dict.fromkeys(("subject", "relation", "object"), pa.large_string())
    return pa.schema(names | columns, metadata={f"gam_kg.{key}": value for key, value in metadata.items()})


@contextmanager
def writing_facts(out: Path, schema: pa.Schema) -> Generator[pq.ParquetWriter]:
    """Write a Parquet file, which appears only when the block ends without an error.

    Raises:
        OutputError: `out` is a folder or cannot be written.
    """
    if out.is_dir():
        raise OutputError(f"{out} is a folder; name the Parquet file to write, for instance {out / 'facts.parquet'}")
    with replacing(out) as staging, open_writer(staging, schema) as writer:
        yield writer
