"""The charts of a report: as SVG inside its page, with the page's colors and letters, and as one PNG."""

import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gam_kg.inference import charts
from gam_kg.inference.charts import COLORS, Tips
from gam_kg.text import printable

Draw = Callable[[Any], Tips | None]
"""Draws onto axes; may return what its points, those of the artist with the gid "tips", say when pointed at."""

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"


def inline_svg(name: str, title: str, draw: Draw, size: tuple[float, float] = (4.6, 3.1)) -> str:
    """A chart to be put into a page, in the page's colors and letters.

    Args:
        name: Of letters, unlike those of the page's other charts, for ids.
        title: What it shows, for who cannot see it.
        draw: Draws it.
        size: Width and height in inches; a page scales it.

    Raises:
        ImportError: matplotlib (the `report` extra) is not installed.
    """
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=size, layout="constrained")
        tips = draw(figure.subplots()) or []
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(buffer.getvalue())
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": title}
    for group in (one for one in root.iter() if one.get("id") == "tips"):
        for point, tip in zip(group.iter(f"{{{_SVG}}}use"), tips, strict=False):
            ElementTree.SubElement(point, f"{{{_SVG}}}title").text = printable(tip)
    for element in root.iter():
        _adopt(element, name)
    return ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{_SVG}"', "")  # a page knows it


def _adopt(element: ElementTree.Element, name: str) -> None:
    """Make ids the chart's own, and colors and letters those of the page."""
    if element.get("id"):
        element.set("id", f"{name}-{element.get('id')}")
    for key in ("clip-path", "href", _LINK):
        if key in element.attrib:
            element.set(key, element.attrib[key].replace("#", f"#{name}-"))
    if _LINK in element.attrib:
        element.set("href", element.attrib.pop(_LINK))
    if (style := element.get("style")) is not None:
        for color, value in COLORS.items():
            style = style.replace(value, f"var(--{color})")
        element.set("style", re.sub(r"font-family: [^;]*; ?", "", style))


def draw(panels: Mapping[str, Draw], legend: Sequence[str], path: Path) -> None:
    """Draw charts side by side into one PNG.

    Args:
        panels: Title → what draws the chart.
        legend: Labels of the scorers, whose colors are alike in all charts.
        path: The PNG file.

    Raises:
        ImportError: matplotlib (the `report` extra) is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = 3 if len(panels) > 4 else 2
    rows = -(-len(panels) // columns)
    with _style():
        figure = Figure(figsize=(4.9 * columns, 3.3 * rows + 0.4), layout="constrained", facecolor="white")
        every = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (title, draw_one) in zip(every, panels.items(), strict=False):
            draw_one(axes)
            axes.set_title(title, loc="left", fontweight="bold")
        for axes in list(every)[len(panels) :]:
            axes.set_axis_off()
        patches = [Patch(color=COLORS[charts.color_of(at)], label=label) for at, label in enumerate(legend)]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
        figure.savefig(path, dpi=110)


@contextmanager
def _style() -> Generator[None]:
    from matplotlib import rc_context

    settings: Any = {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": COLORS["muted"],
        "axes.labelcolor": COLORS["muted"],
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": COLORS["line"],
        "grid.linewidth": 0.8,
        "lines.markersize": 4.5,
        "text.color": COLORS["ink"],
        "text.parse_math": False,
        "xtick.color": COLORS["muted"],
        "xtick.labelcolor": COLORS["ink"],
        "ytick.color": COLORS["muted"],
        "ytick.labelcolor": COLORS["ink"],
        "svg.fonttype": "none",
        "svg.hashsalt": "gam-kg",
    }
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # of a PNG; a page has letters of its own
        yield
