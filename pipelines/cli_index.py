"""The verbs of the command line that make vectors searchable: index, export."""

from typing import Annotated, Literal

import typer

from gam_kg.run_config import config_of_run, folder_of_run
from gam_kg.text import user_path
from .cli_arguments import Overrides, TakeOver
from .progress import results

Run = Annotated[str, typer.Argument(metavar="RUN", help="Folder or URI of a finished run, or its YAML file.")]
At = Annotated[
    str | None,
    typer.Option(metavar="TIMESTAMP", help="The version after the facts of this timestamp; none: the latest."),
]


def index_command(
    run: Run,
    overrides: Overrides = None,
    at: At = None,
    kind: Annotated[
        Literal["auto", "flat", "ivf_pq", "hnsw"] | None, typer.Option(help="In place of index.kind.")
    ] = None,
    min_recall: Annotated[
        float | None, typer.Option(help="Least share of the nearest that it must find, in place of index.min_recall.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build it again even if it is up to date.")] = False,
    take_over: TakeOver = False,
) -> None:
    """embeddings/ → index/: a faiss index of the entities' vectors, for search --like NAME --index.

    Its recall is measured against exact search on a sample of entities; an index that finds less than index.min_recall
    is refused. Needs pip install 'gam-kg[index]'.
    """
    flags = {"index.kind": kind, "index.min_recall": min_recall}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    resolved = config_of_run(run, [*(overrides or ()), *given])
    from .index import index

    index(resolved, at, force=force, take_over=take_over)


def export_command(
    run: Run,
    file_format: Annotated[
        Literal["parquet", "npy", "lance", "pgvector", "milvus", "qdrant"],
        typer.Argument(metavar="FORMAT", help="parquet, npy, lance, pgvector, milvus or qdrant."),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write.")],
    at: At = None,
    version: Annotated[str | None, typer.Option(help="Version by its name, as as_of=2014-12-31.")] = None,
    kind: Annotated[Literal["entity", "relation"], typer.Option(help="Whose vectors.")] = "entity",
    vector: Annotated[
        Literal["search_vector", "embedding"] | None,
        typer.Option(help="Which vectors; none: search_vector of entities, embedding of relations."),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize/--raw", help="Divide vectors by their lengths, or write them as they are.")
    ] = False,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Type of the numbers.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
) -> None:
    """embeddings/ → files that a vector database takes, see docs/vector_search.md.

    DuckDB and Lance also read embeddings/ as it is.
    """
    if at is not None and version is not None:
        raise typer.BadParameter("give either --at or --version")
    folder = folder_of_run(run, "RUN", "graph", "checkpoint", "embeddings")
    from .export import export

    column = vector or ("search_vector" if kind == "entity" else "embedding")
    line = export(
        folder,
        file_format,
        user_path(out, "OUT"),
        at=at,
        version=version,
        kind=kind,
        column=column,
        normalise=normalize,
        number=dtype,
        force=force,
    )
    results.print(line, soft_wrap=True, markup=False)
