"""Tables of runs that ranked the same queries: figures, differences with intervals, and the settings that differ."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gam_kg.config import Config, load_config
from gam_kg.inference.report import LABELS, Table
from gam_kg.inference.run_comparison import Comparison, Ranked, ranked_by_all
from gam_kg.metrics.bootstrap import Difference, paired_differences
from gam_kg.metrics.summary import RankSummary
from gam_kg.run_config import CONFIG, flat


def run_names(runs: Sequence[Path]) -> list[str]:
    """Names of the folders of runs; their paths where two are alike."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def settings_table(runs: Mapping[str, Path]) -> Table:
    """The settings that differ between runs, as their artifacts were made; blank where a run has no configuration.

    Args:
        runs: Folder of each run by its name.
    """
    found = {name: _settings(load_config(run / CONFIG)) for name, run in runs.items() if (run / CONFIG).exists()}
    keys = dict.fromkeys(key for settings in found.values() for key in settings)
    different = [key for key in keys if len({repr(settings.get(key)) for settings in found.values()}) > 1]
    rows = [[key, *(str(found[name].get(key)) if name in found else "" for name in runs)] for key in different]
    return ["settings that differ" if rows else "all settings are alike", *runs], rows


def _settings(config: Config) -> dict[str, Any]:
    return dict(flat(config.model_dump(mode="json", exclude={"name", "run_dir"})))


def figure_tables(runs: Mapping[str, Ranked]) -> Iterator[Table]:
    """A table for each split and setting, in percent: MRR and hits of runs and of the best untrained baseline.

    Args:
        runs: The ranks of each run by its name; the baselines are those of the first that was evaluated with some.
    """
    for split, setting in ranked_by_all(list(runs.values())):
        rows = [[name, *_figures(rank)] for name, rank in _with_best_baseline(runs, split, setting).items()]
        yield [f"{split}, {setting.replace('_', '-')}, %", "MRR", "Hits@1", "Hits@3", "Hits@10"], rows


def _with_best_baseline(runs: Mapping[str, Ranked], split: str, setting: str) -> dict[str, np.ndarray]:
    ranks = {name: run.of(split).ranks(setting) for name, run in runs.items()}
    baselines = ((run, name) for run in runs.values() if (name := run.best_baseline(setting)))
    for run, name in islice(baselines, 1):
        ranks[f"{LABELS.get(name, name)}, untrained"] = run.of(split).ranks(setting, name)
    return ranks


def comparison_tables(found: Mapping[str, Sequence[Comparison]], first: str) -> Iterator[Table]:
    """A table for each split and setting, in percent.

    Args:
        found: By the name of each other run, the comparisons of the first run with it, in the same order.
        first: Name of the first run.
    """
    (shown, *_) = found.values()
    for split, setting in dict.fromkeys((one.split, one.setting) for one in shown):
        rows = []
        for of_part in zip(*found.values(), strict=True):
            one = of_part[0]
            if (one.split, one.setting) == (split, setting):
                row = [one.answers.replace("_", " "), f"{one.count:,}", f"{100 * np.mean(one.first):.2f}"]
                for other in of_part:
                    row += [f"{100 * np.mean(other.second):.2f}", *difference_cells(other.difference)]
                rows.append(row)
        header = [f"{split}, {setting.replace('_', '-')}, MRR %", "answers", first]
        yield [*header, *(cell for name in found for cell in (name, "difference", "95 % interval"))], rows


def ensemble_tables(together: Ranked, runs: Sequence[Ranked]) -> Iterator[Table]:
    """A table for each split and setting, in percent: the runs, all of them together, and the best baseline.

    Args:
        together: The ranks by the mean of the runs' scores.
        runs: The runs; the baselines are those of the first that was evaluated with some.
    """
    named = dict(zip(run_names([Path(run.run) for run in runs]), runs, strict=True))
    for split, setting in ranked_by_all([together, *runs]):
        mine = together.of(split)
        ranks = _with_best_baseline(named, split, setting)
        others = {name: 1 / rank for name, rank in ranks.items()}
        found = paired_differences(1 / mine.ranks(setting), others, mine.query())
        rows = [[name, *_figures(rank), *difference_cells(found[name])] for name, rank in ranks.items()]
        rows.insert(len(runs), [str(together.run), *_figures(mine.ranks(setting)), "", ""])
        title = f"{split}, {setting.replace('_', '-')}, %"
        yield [title, "MRR", "Hits@1", "Hits@3", "Hits@10", "together minus this, MRR", "95 % interval"], rows


def _figures(ranks: np.ndarray) -> list[str]:
    """MRR and hits in percent."""
    found = RankSummary.of(ranks).compute()
    return [f"{100 * found[name]:.2f}" for name in ("mrr", "hits@1", "hits@3", "hits@10")]


def difference_cells(difference: Difference) -> tuple[str, str]:
    """A difference and its interval in percent."""
    return f"{100 * difference.mean:+.2f}", f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
