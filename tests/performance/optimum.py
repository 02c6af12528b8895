"""How near a run on a generated graph comes to the best that any model can expect, by pattern and horizon.

    gam-kg generate FACTS; gam-kg run my.yaml data.facts=FACTS
    python tests/performance/optimum.py FACTS RUN

FACTS is what `gam-kg generate` wrote, RUN the evaluated run. Printed is a Markdown table of test MRR, in percent of the
optimum: of the model, and of the best untrained baseline in brackets.
"""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq


def main(facts: Path, run: Path) -> None:
    optimum = json.loads((facts / "manifest.json").read_text())["content"]["optimum"]
    ranks = pq.read_table(run / "evaluation" / "ranks.parquet").to_pandas()
    ranks = ranks[ranks["split"] == "test"]
    numbered = ranks["relation"].str.split("_")
    ranks["pattern"] = numbered.str[0] + numbered.str[2].map(lambda part: f"_{part}", na_action="ignore").fillna("")
    rows = {"single-step": (optimum["test"], ranks, "rank")}
    for name, best in sorted(optimum["multi_step"].items(), key=lambda item: int(item[0].partition("-")[0])):
        first, _, last = name.partition("-")
        within = ranks["horizon"].between(int(first), int(last or first))
        rows[f"multi-step, horizon {name}"] = best, ranks[within], "rank_multi_step"
    patterns = ["all", *sorted(set(ranks["pattern"]))]
    print("| | " + " | ".join(patterns) + " |\n|" + "---|" * (len(patterns) + 1))  # noqa: T201
    for name, (best, some, suffix) in rows.items():
        scorers = [column.removesuffix(suffix) for column in some if column.endswith(suffix)]
        cells = []
        for pattern in patterns:
            of_pattern = some if pattern == "all" else some[some["pattern"] == pattern]
            mrr = {scorer: (1 / of_pattern[scorer + suffix]).mean() for scorer in scorers}
            model, most = mrr.pop(""), best[pattern]["both"]
            cells.append(f"{100 * model / most:.0f} ({100 * max(mrr.values()) / most:.0f})")
        print(f"| {name} | " + " | ".join(cells) + " |")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
