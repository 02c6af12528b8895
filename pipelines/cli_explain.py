"""The verb of the command line that says why: explain."""

from typing import Annotated

import typer

from gam_kg.run_config import folder_of_run

ANY = "?"
_READ = ("graph", "checkpoint", "updates", "state")


def explain_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URI of a finished run, or its YAML file.")],
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="Known subject; '?' to ask for it.")],
    relation: Annotated[str, typer.Argument(metavar="RELATION")],
    object_: Annotated[
        str, typer.Argument(metavar="OBJECT", help="Known object where SUBJECT is '?'; else the answer to explain.")
    ] = ANY,
    at: Annotated[
        str | None, typer.Option(help="Timestamp of the query, from the facts before it; none: after the last fact.")
    ] = None,
    answer: Annotated[str | None, typer.Option(help="Explain this answer; none: the best one.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many of the best answers to explain.")] = 1,
    facts: Annotated[int, typer.Option(min=1, help="Reasons to show of each answer, at most.")] = 8,
    memory: Annotated[
        bool, typer.Option("--memory", help="Also show which facts the memory attended to at its last update.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """Why an answer has its score: what each part of the model adds, and the past facts that carry it.

    Parts add up to the score. "counts" compares each with its mean over all candidates, for (+) or against (-) the
    answer; without the signs, these add up to 100 %. A reason has the attention weight and the share of its part.
    """
    asks_subject = subject == ANY
    if asks_subject and object_ == ANY:
        raise typer.BadParameter("give the SUBJECT, or '?' RELATION OBJECT to ask for the subject")
    if not asks_subject and object_ != ANY:
        if answer is not None:
            raise typer.BadParameter(f"the answer is given twice, as OBJECT {object_!r} and as --answer {answer!r}")
        answer = object_
    if answer is not None and top_k > 1:
        raise typer.BadParameter(f"--top-k {top_k} explains the best answers, and {answer!r} is one: leave one out")
    folder = folder_of_run(run, "RUN", *_READ)
    from .explain import explain_query

    explain_query(
        folder,
        None if asks_subject else subject,
        relation,
        object_ if asks_subject else None,
        at=at,
        answer=answer,
        answers=top_k,
        top=facts,
        memory=memory,
        as_json=as_json,
    )
