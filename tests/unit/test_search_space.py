"""What trials draw their settings from, and what is refused."""

import numpy as np
import pytest

from gam_kg.config import Config
from gam_kg.errors import ConfigError
from pipelines.search_space import SearchSpace

CONFIG = Config()


def read(folder, text, config=CONFIG):
    (folder / "space.yaml").write_text(text)
    return SearchSpace.read(folder / "space.yaml", config)


def test_settings_are_drawn_from_all_of_their_values(tmp_path):
    space = read(
        tmp_path,
        "train.learning_rate: {loguniform: [3e-4, 0.03]}\nmodel.dropout: {uniform: [0.1, 0.3]}\n"
        "train.window: {randint: [1, 3]}\nmodel.dim: {choice: [100, 200]}\nmodel.entity_dropout: {choice: [0.5, 0]}\n"
        "train.answers_per_step: {choice: [null, 500]}\nmodel.name_words: {choice: [true, false]}\n",
    )
    trials = space.draw(CONFIG, 400)
    rates = np.array([trial["train.learning_rate"] for trial in trials])
    assert 0.0003 <= rates.min() < 0.0004
    assert 0.025 < rates.max() <= 0.03
    assert np.mean(rates < 0.003) == pytest.approx(0.5, abs=0.08), "half of the draws are below the geometric mean"
    dropout = np.array([trial["model.dropout"] for trial in trials])
    assert (dropout.min(), dropout.mean(), dropout.max()) == pytest.approx((0.1, 0.2, 0.3), abs=0.01)
    for key, values in {
        "train.window": {1, 2, 3},
        "model.dim": {100, 200},
        "model.entity_dropout": {0.5, 0.0},
        "train.answers_per_step": {None, 500},
        "model.name_words": {True, False},
    }.items():
        assert {trial[key] for trial in trials} == values
    assert space.draw(CONFIG, 30) == trials[:30], "more trials begin with the same ones"
    assert space.draw(CONFIG.changed({"seed": 1}), 30) != trials[:30]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no settings to search"),
        ("- a", "expected keys and values"),
        ("train.learning_rat: {uniform: [1, 2]}", "train.learning_rat: no setting of model or training; allowed here:"),
        ("train: {learning_rate: {uniform: [1, 2]}}", "train: no setting .* allowed here: .*train.learning_rate"),
        ("data.time_unit: {choice: [1, 2]}", "data.time_unit: no setting of model or training"),
        ("train.threads: {choice: [1, 2]}", "train.threads: no setting of model or training"),
        ("train.epochs: {randint: [1, 9]}", "train.epochs cannot be searched: it is the most epochs of every trial"),
        ("train.valid_facts: {randint: [1, 9]}", "train.valid_facts cannot be searched: trials would be ranked"),
        ("seed: {randint: [1, 9]}", "seed cannot be searched"),
        ("model.dim: [100, 200]", r"model.dim: expected one of {choice: .*\(found \[100, 200\]\)"),
        ("model.dim: {grid: [100, 200]}", r"model.dim: expected one of {choice: .*\(found {'grid'"),
        ("model.dim: {choice: [1], uniform: [1, 2]}", "model.dim: expected one of"),
        ("model.dim: {choice: 100}", "model.dim: choice: expected a list of values in brackets .found 100"),
        ("model.dim: {choice: []}", "model.dim: choice: expected a list of values"),
        ("model.dropout: {uniform: [0.5, 0.1]}", "model.dropout: uniform: expected two numbers, the least first"),
        ("model.dropout: {uniform: [0.1, 0.2, 0.3]}", "model.dropout: uniform: expected two numbers"),
        ("model.dropout: {uniform: [0.1, nan]}", "model.dropout: uniform: expected two numbers"),
        ("train.weight_decay: {uniform: [0, .inf]}", "train.weight_decay: uniform: expected two numbers"),
        ("train.weight_decay: {loguniform: [0, 1]}", "train.weight_decay: loguniform: expected two numbers above 0"),
        ("train.window: {randint: [0, 1.5]}", "train.window: randint: expected two whole numbers"),
        ("train.window: {randint: [true, 3]}", "train.window: randint: expected two whole numbers"),
        (
            "model.dropout: {uniform: [0.1, 1.5]}",
            r"space.yaml: 1 problem(.|\n)*model.dropout: .*less than 1 \(found 1.5\)",
        ),
        ("model.decoder: {choice: [mlp, tree]}", r"model.decoder: .*'distmult'.*\(found 'tree'\)"),
        ("model.dim: {choice: [100, 150]}", "dim=150 must be a multiple of heads=4"),
        ("model.dim: {choice: [true]}", "model.dim: true is not allowed here"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_settings_that_do_not_go_together_are_refused_with_the_trial(tmp_path):
    space = read(tmp_path, "model.dim: {choice: [100]}\nmodel.heads: {choice: [8]}", Config())
    with pytest.raises(ConfigError, match=r"trial 0 \(model.dim=100, model.heads=8\).*\n.*must be a multiple"):
        space.draw(CONFIG, 2)
    space = read(tmp_path, "train.window: {uniform: [1, 3]}")
    with pytest.raises(ConfigError, match=r"train.window: .*valid integer"):
        space.draw(CONFIG, 5)
