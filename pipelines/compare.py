"""Evaluated runs side by side."""

from collections.abc import Sequence
from pathlib import Path

from gam_kg.inference.comparison_tables import comparison_tables, figure_tables, run_names, settings_table
from gam_kg.inference.run_comparison import Ranked, compare
from gam_kg.text import printable
from .progress import results
from .report import show_table


def show_comparison(runs: Sequence[Path]) -> None:
    """Print what differs between runs: settings, figures, and mean reciprocal ranks by part of the answers.

    Args:
        runs: Folders of two or more runs; all others are compared with the first.

    Raises:
        ArtifactError: A run has no evaluation, or a damaged one.
        EvaluationError: They have not ranked the same queries.
    """
    names = run_names(runs)
    ranked = {name: Ranked.read(run) for name, run in zip(names, runs, strict=True)}
    first, *others = names
    for name, run in zip(names, runs, strict=True):
        results.print(f"{name}: {printable(str(run))}", soft_wrap=True, markup=False)
    header, rows = settings_table(dict(zip(names, runs, strict=True)))
    if rows:
        show_table("", header, rows)
    else:
        results.print(header[0])
    for table in figure_tables(ranked):
        show_table("", *table)
    for by_relation in (False, True):
        found = {name: compare([ranked[first]], [ranked[name]], by_relation=by_relation) for name in others}
        for table in comparison_tables(found, first):
            show_table("", *table)
