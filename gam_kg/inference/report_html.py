"""The parts of a page: text, tables, pictures and the frame. A page has no script and refers to nothing outside it."""

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path

from gam_kg.inference.report import LABELS, Table
from gam_kg.inference.report_style import STYLE
from gam_kg.inference.report_terms import TERMS
from gam_kg.output import replacing
from gam_kg.schemas import MODEL
from gam_kg.text import printable

NAME = 120
"""Letters of a name that are shown."""

_HEADERS = {written: key for key, (written, _) in TERMS.items()} | {
    **{f"Hits@{k}": "hits" for k in (1, 3, 10)},
    **{"raw MRR": "raw", "multi-step MRR": "multi-step", "seen-in-training": "seen"},
}


def text(found: object, most: int | None = None) -> str:
    """Any text made safe for a page: escaped, without control characters, and cut after a number of letters."""
    shown = str(found)
    safe = escape(printable(shown if most is None or len(shown) <= most else f"{shown[:most]}…"))
    return re.sub(r"([_/])(?=\w)", r"\1<wbr>", safe)


def term(key: str, written: str | None = None) -> str:
    """A word that explains itself when it is touched; see `report_terms`."""
    label, meaning = TERMS[key]
    about = f'popovertarget="term-{key}" title="{escape(meaning)}"'
    return f'<button type="button" class="term" {about}>{text(written or label)}</button>'


def glossary() -> str:
    """The explanations, which are hidden until a word is touched, and are all there on paper."""
    return "".join(
        f'<div popover id="term-{key}"><b>{text(label)}</b> {text(meaning)}</div>'
        for key, (label, meaning) in TERMS.items()
    )


def table(found: Table, *, best: bool = False, words: Iterable[int] = ()) -> str:
    """A table that scrolls in its own frame where it is wider than the page.

    Args:
        found: The table.
        best: Whether the highest value of each column is bold, or all of them where several are.
        words: Columns, beside the first, that have text.
    """
    (header, rows), left = found, set(words)
    bold = [_best([row[column] for row in rows]) if best else set() for column in range(len(header))]

    def cell(at: int, column: int, shown: str) -> str:
        inner = f"<strong>{text(shown)}</strong>" if at in bold[column] else text(shown, 2 * NAME)
        return f"<td{' class=words' if column in left else ''}>{inner}</td>"

    head = "".join(
        f"<th scope=col{' class=words' if column in left else ''}>{_head(name)}</th>"
        for column, name in enumerate(header)
    )
    body = "".join(
        f"<tr{' class=model' if row[0] == LABELS[MODEL] else ''}>"
        + "".join(cell(at, column, shown) for column, shown in enumerate(row))
        + "</tr>"
        for at, row in enumerate(rows)
    )
    return f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def pairs(rows: Iterable[Sequence[str]]) -> str:
    """A table of two columns, what and how much, without a header."""
    body = "".join(
        f"<tr><td>{text(what, 2 * NAME)}</td><td class=words>{text(value, 2 * NAME)}</td></tr>" for what, value in rows
    )
    return f"<div class=scroll tabindex=0><table class=pairs><tbody>{body}</tbody></table></div>"


def beside(first: str, second: str, kind: str = "") -> str:
    """A picture and what belongs to it: side by side, or below each other on a phone."""
    return f'<div class="beside {kind}">{first}<div>{second}</div></div>' if first else second


def figure(svg: str, title: str, note: str = "", *, large: bool = False) -> str:
    """A picture with its caption."""
    small = f"<small>{note}</small>" if note else ""
    return f"<figure{' class=large' if large else ''}><figcaption>{title}{small}</figcaption>{svg}</figure>"


def tiles(found: Iterable[tuple[str, str, str]]) -> str:
    """What (HTML), how much and a remark, in large figures."""
    inner = "".join(
        f"<div><dt>{what}</dt><dd>{text(value)}<small>{text(remark)}</small></dd></div>"
        for what, value, remark in found
    )
    return f"<dl class=tiles>{inner}</dl>"


def legend(colors: Mapping[str, str]) -> str:
    """What the colors of charts mean: label → name of its color."""
    items = (
        f'<li><i style="background:var(--{color})"></i>{text(label, NAME)}</li>' for label, color in colors.items()
    )
    return f"<ul class=legend>{''.join(items)}</ul>"


def details(summary: str, inner: str) -> str:
    """Something long, closed until it is touched."""
    return f"<details><summary>{text(summary)}</summary>{inner}</details>"


def page(title: str, head: str, sections: Sequence[tuple[str, str]], foot: str = "") -> str:
    """A page.

    Args:
        title: Of the window.
        head: HTML above the table of contents.
        sections: The heading of each, and its HTML.
        foot: HTML below.
    """
    links = "".join(f'<li><a href="#part-{at}">{text(name)}</a></li>' for at, (name, _) in enumerate(sections))
    body = "".join(
        f'<section id="part-{at}"><h2>{text(name)}</h2>{inner}</section>' for at, (name, inner) in enumerate(sections)
    )
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(sections) > 1 else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(printable(title))}</title><style>{STYLE}</style></head>\n'
        f"<body><header>{head}</header>{contents}<main>{body}</main><footer>{foot}</footer></body></html>\n"
    )


def write_page(path: Path, html: str) -> None:
    """Write a page."""
    with replacing(path) as staging:
        staging.write_text(html, encoding="utf-8")


def write_html(path: Path, title: str, summary: Sequence[str], tables: Sequence[Table]) -> None:
    """Write a page with the summary lines, the tables and the picture beside it, if there is a PNG of that name."""
    head = f"<h1>{text(title)}</h1>" + "".join(f"<p class=lead>{text(line)}</p>" for line in summary)
    inner = "".join(table(one) for one in tables)
    picture = path.with_suffix(".png")
    if picture.exists():
        data = b64encode(picture.read_bytes()).decode()
        inner += figure(f'<img src="data:image/png;base64,{data}" alt="the figures of this page as a picture">', "")
    write_page(path, page(title, head, [("Results", inner)], glossary()))


def _head(name: str) -> str:
    return term(_HEADERS[name], name) if name in _HEADERS else text(name)


def _best(cells: Sequence[str]) -> set[int]:
    """Positions of the highest number, as it is shown; nothing where only one has a number."""
    numbers = {}
    for at, cell in enumerate(cells):
        try:
            number = float(cell)
        except ValueError:
            continue
        if isfinite(number):
            numbers[at] = number
    highest = max(numbers.values(), default=0)
    return {at for at, number in numbers.items() if number == highest} if len(numbers) > 1 else set()
