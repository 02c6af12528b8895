"""Two evaluated runs side by side."""

from pathlib import Path

from gam_kg.inference.run_comparison import Ranked, compare, comparison_tables
from gam_kg.text import printable
from .progress import results
from .report import show_table


def show_comparison(first: Path, second: Path) -> None:
    """Print the mean reciprocal ranks of two runs by split, setting and part of the answers, with differences.

    Raises:
        ArtifactError: A run has no evaluation, or a damaged one.
        EvaluationError: They have not ranked the same queries.
    """
    tables = list(comparison_tables(compare([Ranked.read(first)], [Ranked.read(second)]), ("first", "second")))
    for name, run in (("first", first), ("second", second)):
        results.print(f"{name}: {printable(str(run))}", soft_wrap=True, markup=False)
    for table in tables:
        show_table("", *table)
