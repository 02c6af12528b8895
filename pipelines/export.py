"""The export verb: a version of embeddings/ → a folder of files for another system."""

from pathlib import Path

from gam_kg.inference.vector_export import Format, Number, Vectors, export_vectors, require_free
from gam_kg.inference.vector_source import Column, Kind, VectorSource, find_version
from .progress import progress


def export(
    run: Path,
    file_format: Format,
    out: Path,
    *,
    at: str | None,
    version: str | None,
    kind: Kind,
    column: Column,
    normalise: bool,
    number: Number,
    force: bool,
) -> str:
    """Export vectors of a run; see `export_vectors`.

    Returns:
        What was written, in a line.
    """
    require_free(out, force=force)  # before anything is read
    with (
        VectorSource.open(run, version or find_version(run, at), kind, column) as source,
        progress("export", source.num_rows, "vectors") as advance,
    ):
        made = export_vectors(out, file_format, Vectors(source, number, normalise, advance), force=force).content
    return f"{made['num_vectors']:,} vectors of {made['dim']} numbers ({column}, {number}, {made['version']}) -> {out}"
