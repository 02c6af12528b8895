"""Questions to a finished run, one a line, from a terminal or a pipe; the run is loaded once."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from gam_kg.errors import GamKGError
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.text import printable
from .progress import console
from .search import Form, Question, look_up

HELP = """\
SUBJECT | RELATION       what the object may be; so does SUBJECT | RELATION | ?
? | RELATION | OBJECT    what the subject may be
like NAME                the nearest entities
at TIMESTAMP             answer at this timestamp from now on; without one, after the last fact
among FILE|TYPE          answers only among these; without one, among all
top NUMBER               so many answers
help, quit               Tab completes names, whatever their case"""
_COMMANDS = ("like", "at", "among", "top", "help", "quit")
_PROMPT = "? "
_COMPLETIONS = 200


def answer_lines(run: TrainedRun, question: Question, form: Form = "table") -> None:
    """Answer the lines of standard input until it ends; a mistake is shown and the next line is read.

    Args:
        run: The run.
        question: Its `at`, `among` and `top_k` hold until a line changes them.
        form: How answers are shown.
    """
    if sys.stdin.isatty():
        _complete_names(run)
        console.print(HELP, markup=False)
    for line in _lines():
        try:
            if line == "quit":
                return
            question = _answer(run, question, line, form)
        except (GamKGError, ValueError) as error:
            console.print(printable(f"error: {error}"), markup=False, soft_wrap=True)


def _answer(run: TrainedRun, question: Question, line: str, form: Form) -> Question:
    """Do what a line says; what then holds for the next one."""
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    if "|" in line:
        parts = [None if part.strip() == "?" else part.strip() for part in line.split("|")]
        if len(parts) > 3 or parts[1] is None or (parts[0] is None) == (parts[2:] in ([], [None])):
            raise ValueError("give SUBJECT | RELATION or ? | RELATION | OBJECT")
        subject, relation, obj = [*parts, None][:3]
        look_up(run, replace(question, subject=subject, relation=relation, object=obj)).show(form)
    elif command == "like" and rest:
        look_up(run, replace(question, like=rest)).show(form)
    elif command in ("at", "among"):
        return replace(question, **{command: rest or None})
    elif command == "top" and rest.isdecimal() and int(rest):
        return replace(question, top_k=int(rest))
    elif line == "help":
        console.print(HELP, markup=False)
    elif line:
        raise ValueError(f"{line}: not understood; help shows what can be given")
    return question


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
