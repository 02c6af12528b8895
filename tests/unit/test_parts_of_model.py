"""The parts that can be switched off."""

import pytest
from runs import settings_of

from gam_kg.config import Config
from gam_kg.errors import ConfigError
from pipelines.parts import FULL, PARTS, choose_parts


def test_every_part_is_on_by_default_and_changes_its_settings_only():
    chosen = choose_parts(Config(), None)
    assert list(chosen) == [FULL, *PARTS]
    assert chosen.pop(FULL) == Config()
    for name, without in chosen.items():
        changed = set(settings_of(without)) - set(settings_of(Config()))
        assert dict(changed) == PARTS[name]


def test_every_switch_of_the_model_is_one_of_a_part():
    switched = {key for off in PARTS.values() for key in off}
    switches = {key for key, value in settings_of(Config()) if key.startswith("model.") and value is True}
    assert switches <= switched
    assert len(switches) > 4


def test_a_part_that_is_off_is_left_out_and_one_half_off_is_not():
    config = Config().changed({"model.history.popular": 0, "model.history.recent": 0})
    chosen = choose_parts(config, None)
    assert "popularity" not in chosen
    assert chosen["past_facts"].model.history.same_relation == 0
    assert {without.model.history.popular for without in chosen.values()} == {0}
    assert list(choose_parts(config, ["paths"])) == [FULL, "paths"]


@pytest.mark.parametrize(
    ("off", "names", "message"),
    [
        ({}, ["attention"], "--parts attention: there is no such part; allowed here: past_facts, pair_stat"),
        ({"model.name_words": False}, ["name_words"], "name_words: it is off already, by model.name_words=False"),
        ({key: value for off in PARTS.values() for key, value in off.items()}, None, "every part is off already"),
    ],
)
def test_what_cannot_be_switched_off_is_refused(off, names, message):
    with pytest.raises(ConfigError, match=message):
        choose_parts(Config().changed(off), names)
