"""Questions to a finished run, one a line, from a terminal or a pipe; the run is loaded once."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gam_kg.errors import GamKGError
from gam_kg.inference.answers import encode_query
from gam_kg.inference.explain import explain
from gam_kg.inference.one_version import one_version
from gam_kg.inference.queries import EncodedQueries
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.text import printable
from .progress import console
from .search import Form, Found, Question, look_up

HELP = """\
SUBJECT | RELATION       what the object may be; so does SUBJECT | RELATION | ?
? | RELATION | OBJECT    what the subject may be
explain NUMBER           the strongest reasons of an answer to the last question
like NAME                the nearest entities
at TIMESTAMP             answer at this timestamp from now on; without one, after the last fact
among FILE|TYPE          answers only among these; without one, among all
top NUMBER               so many answers
help, quit               Tab completes names, whatever their case"""
_COMMANDS = ("like", "at", "among", "top", "explain", "help", "quit")
_PROMPT = "? "
_COMPLETIONS = 200


class Session:
    """What lines of questions have set and found so far.

    Args:
        run: The run that answers.
        question: Its `at`, `among` and `top_k` hold until a line changes them.
        form: How answers are shown.
    """

    def __init__(self, run: TrainedRun, question: Question, form: Form = "table") -> None:
        self.run, self.question, self.form = run, question, form
        self.last: tuple[EncodedQueries, list[int]] | None = None

    def read(self) -> bool:
        """Answer the lines of standard input until it ends; a mistake is shown, and the next line is read.

        Returns:
            Whether all lines could be answered.
        """
        all_answered = True
        if sys.stdin.isatty():
            _complete_names(self.run)
            console.print(HELP, markup=False)
        for line in _lines():
            if line == "quit":
                break
            try:
                self.answer(line)
            except (GamKGError, ValueError) as error:
                console.print(printable(f"error: {error}"), markup=False, soft_wrap=True)
                all_answered = False
        return all_answered

    def answer(self, line: str) -> None:
        """Do what a line says.

        Raises:
            ArtifactError: The run was replaced after it was loaded.
            ValueError: It cannot be understood.
        """
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if "|" in line:
            self._query(line)
        elif command == "like" and rest:
            self._look_up(like=rest).show(self.form)
        elif command in ("at", "among"):
            self.question = replace(self.question, **{command: rest or None})
        elif command in ("top", "explain") and rest.isdecimal() and int(rest):
            if command == "explain":
                self._explain(int(rest))
            else:
                self.question = replace(self.question, top_k=int(rest))
        elif line == "help":
            console.print(HELP, markup=False)
        elif line:
            raise ValueError(f"{line}: not understood; help shows what can be given")

    def _query(self, line: str) -> None:
        parts = [None if part.strip() == "?" else part.strip() for part in line.split("|")]
        if len(parts) > 3 or parts[1] is None or (parts[0] is None) == (parts[2:] in ([], [None])):
            raise ValueError("give SUBJECT | RELATION or ? | RELATION | OBJECT")
        subject, relation, obj = [*parts, None][:3]
        found = self._look_up(subject=subject, relation=relation, object=obj)
        found.show(self.form)
        names = (found.question[role] for role in ("subject", "relation", "object"))
        subject, relation, obj = (None if name is None else str(name) for name in names)
        query = encode_query(self.run, subject, str(relation), obj, self.question.at)
        self.last = query, found.rows["answer_id"].to_pylist()

    def _look_up(self, **parts: str | None) -> Found:
        """What is found, before any of it is shown: it may be of a run that was replaced."""
        with one_version(self.run):
            return look_up(self.run, replace(self.question, **parts))

    def _explain(self, number: int) -> None:
        """Show the strongest reasons of an answer to the last query."""
        if self.last is None or number > len(self.last[1]):
            raise ValueError(
                f"explain {number}: there is no such answer; explain takes the number of one to the last query"
            )
        query, answers = self.last
        with one_version(self.run):
            (found,) = explain(self.run, query, np.array([answers[number - 1]]))
        if self.form == "json":
            sys.stdout.write(json.dumps(found.to_dict(), ensure_ascii=False) + "\n")
        else:
            sys.stdout.write(printable(f"{found.answer}: {found.summary()}") + "\n")


def _lines() -> Iterator[str]:
    """Lines without surrounding blanks."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    while True:
        try:
            yield input(_PROMPT).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            console.print()  # the line is dropped, as in a shell


def completions(run: TrainedRun, line: str) -> list[str]:
    """What the part of a line behind its last "|" may become: commands, entities or relations."""
    *before, text = line.split("|")
    command, _, rest = text.lstrip().partition(" ")
    if not before and command == "like":
        return [f"like {name}" for name in run.entities.beginning(rest.lstrip(), _COMPLETIONS)]
    names = run.relations if len(before) == 1 else run.entities
    blank = " " if before else ""
    found = [f"{blank}{name}" for name in names.beginning(text.lstrip(), _COMPLETIONS)]
    return found if before else [*(name for name in _COMMANDS if name.startswith(text.lstrip())), *found]


def _complete_names(run: TrainedRun) -> None:
    """Let Tab complete names, and arrow keys bring back earlier lines."""
    try:
        import readline
    except ImportError:  # a system without it
        return

    def complete(_: str, state: int) -> str | None:
        found = completions(run, readline.get_line_buffer()[: readline.get_endidx()])
        return found[state] if state < len(found) else None

    readline.set_completer_delims("|")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
