"""The parts of the model and of its training that `ablate` switches off, one at a time."""

from collections.abc import Sequence
from typing import Any

from gam_kg.config import Config
from gam_kg.errors import ConfigError

FULL = "full"
"""The name of nothing switched off."""

PARTS: dict[str, dict[str, Any]] = {
    "past_facts": {"model.history.recent": 0, "model.history.same_relation": 0},
    "pair_statistics": {"model.history.pair_statistics": False},
    "paths": {"model.history.two_hop_first": 0},
    "popularity": {"model.history.popular": 0},
    "rules": {"model.history.rule_bodies": 0},
    "rule_confidence": {"model.history.rule_confidence": False},
    "memory": {"model.memory": False},
    "memory_gradients": {"train.window": 0},
    "gate": {"model.gate": False},
    "name_words": {"model.name_words": False},
    "word_agreement": {"model.word_agreement": False},
    "entity_dropout": {"model.entity_dropout": 0.0},
    "horizons": {"train.max_horizon": 1},
}
"""Name → the settings that switch it off."""


def choose_parts(config: Config, names: Sequence[str] | None) -> dict[str, Config]:
    """The configuration without each part that it has, and first as it is.

    Args:
        config: The configuration with all its parts.
        names: Parts to switch off; None: all.

    Raises:
        ConfigError: A name is unknown, or its part is off already.
    """
    without = {name: config.changed(settings, f"without {name}") for name, settings in PARTS.items()}
    on = {name: other for name, other in without.items() if other != config}
    for name in names or ():
        if name not in PARTS:
            raise ConfigError(f"--parts {name}: there is no such part; allowed here: {', '.join(on)}")
        if name not in on:
            off = ", ".join(f"{key}={value}" for key, value in PARTS[name].items())
            raise ConfigError(f"--parts {name}: it is off already, by {off}; allowed here: {', '.join(on)}")
    if not on:
        raise ConfigError("every part is off already: there is nothing to switch off")
    return {FULL: config, **{name: on[name] for name in (names or on)}}
