"""The search space of `tune`: a YAML file of settings, each with what its values are drawn from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gam_kg.config import Config
from gam_kg.config_file import read_yaml
from gam_kg.errors import ConfigError
from gam_kg.run_config import checkpoint_settings, flat
from gam_kg.text import quoted

Settings = dict[str, Any]
"""Dotted key → value."""

_FIXED = {
    "seed": "it is the seed of every trial, and of the draws",
    "train.epochs": "it is the most epochs of every trial; set it in CONFIG",
    "train.valid_facts": "trials would be ranked on different facts; set it in CONFIG",
}
_DRAWS: dict[str, Callable[[Sequence[Any], np.random.Generator], Any]] = {
    "choice": lambda values, generator: values[int(generator.integers(len(values)))],
    "uniform": lambda ends, generator: _rounded(ends[0] + generator.random() * (ends[1] - ends[0]), ends),
    "loguniform": lambda ends, generator: _rounded(ends[0] * (ends[1] / ends[0]) ** generator.random(), ends),
    "randint": lambda ends, generator: int(generator.integers(ends[0], ends[1], endpoint=True)),
}
_EXAMPLES = "{choice: [100, 200]}, {uniform: [0.1, 0.5]}, {loguniform: [0.0003, 0.003]}, {randint: [1, 4]}"


@dataclass(frozen=True)
class SearchSpace:
    """What trials draw their settings from.

    Attributes:
        file: Where it was read.
        axes: Key → how it is drawn, and from which values: of `choice` all, else the least and the greatest.
    """

    file: Path
    axes: dict[str, tuple[str, list[Any]]]

    @classmethod
    def read(cls, file: Path, config: Config) -> "SearchSpace":
        """Read the search space for a configuration.

        Raises:
            ConfigError: The file is missing or no YAML; a key is no setting that trials may differ in, is not drawn in
                a known way, or has a value that is not allowed.
        """
        values = read_yaml(file)
        if not values:
            raise ConfigError(f"{file}: no settings to search; write each as train.learning_rate: {_EXAMPLES}")
        allowed = [key for key in dict(flat(checkpoint_settings(config))) if key not in _FIXED]
        space = cls(file, {key: _axis(f"{file}: {key}", key, given, allowed) for key, given in values.items()})
        for key, (_, found) in space.axes.items():
            for value in found:
                config.changed({key: value}, str(file))
        return space

    def draw(self, config: Config, num_trials: int) -> list[Settings]:
        """The settings of the first trials; more trials begin with the same ones.

        Raises:
            ConfigError: The settings of a trial are not allowed together.
        """
        trials = []
        for number in range(num_trials):
            generator = np.random.default_rng([config.seed, number])
            drawn = {key: _DRAWS[kind](found, generator) for key, (kind, found) in self.axes.items()}
            shown = ", ".join(f"{key}={value}" for key, value in drawn.items())
            trial = config.changed(drawn, f"{self.file}: trial {number} ({shown})")
            values = dict(flat(checkpoint_settings(trial)))  # as the settings have them, numbers that YAML has as text
            trials.append({key: values[key] for key in drawn})
        return trials


def _axis(where: str, key: str, given: Any, allowed: Sequence[str]) -> tuple[str, list[Any]]:
    if key in _FIXED:
        raise ConfigError(f"{where} cannot be searched: {_FIXED[key]}")
    if key not in allowed:
        raise ConfigError(f"{where}: no setting of model or training; allowed here: {', '.join(allowed)}")
    if not isinstance(given, dict) or len(given) != 1 or not given.keys() <= _DRAWS.keys():
        raise ConfigError(f"{where}: expected one of {_EXAMPLES} (found {quoted(given)})")
    ((kind, values),) = given.items()
    where = f"{where}: {kind}"
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: expected a list of values in brackets (found {quoted(values)})")
    return kind, values if kind == "choice" else _ends(where, kind, values)


def _ends(where: str, kind: str, values: list[Any]) -> list[Any]:
    """The least and the greatest value of a range."""
    number = int if kind == "randint" else float
    try:
        low, high = (number(str(value)) for value in values)
    except ValueError:
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf or (kind == "loguniform" and low <= 0):
        what = "two whole numbers" if kind == "randint" else "two numbers"
        above = " above 0" if kind == "loguniform" else ""
        raise ConfigError(f"{where}: expected {what}{above}, the least first (found {quoted(values)})")
    return [low, high]


def _rounded(value: float, ends: Sequence[float]) -> float:
    """A value within a range, as a person would write it."""
    return min(max(float(f"{value:.4g}"), ends[0]), ends[1])
