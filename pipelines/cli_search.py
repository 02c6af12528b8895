"""The verb search of the command line."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from gam_kg.run_config import folder_of_run

_READ = ("graph", "checkpoint", "updates", "state")
_UNKNOWN = "?"
_QUERY = "--query"


class SearchCommand(TyperCommand):
    """A command whose --query has two values or three, one of which is then '?'."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with three values of each --query."""
        return super().parse_args(ctx, with_three_values(args))


def with_three_values(args: Sequence[str]) -> list[str]:
    """The arguments with '?' as the third value of each --query that has two."""
    found = list(args)
    for place in [place for place, text in enumerate(args) if text == _QUERY][::-1]:
        values = found[place + 1 : place + 4]
        if len(values) >= 2 and values[0] != _UNKNOWN and values[2:] != [_UNKNOWN]:
            found.insert(place + 3, _UNKNOWN)
    return found


def search_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URI of a finished run, or its YAML file.")],
    like: Annotated[str | None, typer.Option(help="Entity whose nearest entities to find, by search vectors.")] = None,
    query: Annotated[
        tuple[str, str, str] | None,
        typer.Option(_QUERY, metavar="SUBJECT RELATION | '?' RELATION OBJECT", help="What to answer."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="With --like, after the facts of this timestamp, by default after the last fact. With --query, at "
            "this timestamp, from the facts before it, by default just after the last fact."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 10,
    among: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|TYPE",
            help="Only these entities: a file of names (one a line, CSV or Parquet), COLUMN=CATEGORY of the entity "
            "features, object-of:RELATION or subject-of:RELATION.",
        ),
    ] = None,
    by_index: Annotated[bool, typer.Option("--index", help="With --like, by the index of gam-kg index RUN.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Read questions line by line; so does a search without a question.")
    ] = False,
) -> None:
    """Nearest entities (--like NAME) or answers (--query SUBJECT RELATION), exact; else questions line by line.

    In names, case does not count where one name only differs by it. Where questions come from a pipe, the exit status
    is 1 if one of them could not be answered.
    """
    no_question = like is None and query is None
    if (like is not None and query is not None) or (interactive and not no_question):
        raise typer.BadParameter("give one of --like NAME, --query SUBJECT RELATION and --interactive")
    if no_question and not interactive and not sys.stdin.isatty():
        raise typer.BadParameter("give --like NAME or --query SUBJECT RELATION; or --interactive, to read questions")
    if as_json and as_csv:
        raise typer.BadParameter("give one of --json and --csv")
    if query is not None and query[1] == _UNKNOWN:
        raise typer.BadParameter("the relation of --query must be given")
    if by_index and (like is None or among is not None):
        raise typer.BadParameter("--index goes with --like NAME, without --among")
    from .interactive import Session
    from .search import Question, load, search

    read = ("graph", "checkpoint", "embeddings", "index") if by_index else _READ
    folder, form = folder_of_run(run, "RUN", *read), "json" if as_json else "csv" if as_csv else "table"
    names = (None,) * 3 if query is None else (None if name == _UNKNOWN else name for name in query)
    question = Question(like, *names, at, top_k, among)
    if by_index:
        from .index import look_up_by_index

        look_up_by_index(folder, question).show(form)
    elif no_question:
        all_answered = Session(load(folder), question, form).read()
        if not all_answered and not sys.stdin.isatty():
            raise typer.Exit(1)
    else:
        search(folder, question, form)
