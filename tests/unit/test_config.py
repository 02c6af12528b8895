from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from gam_kg.config import Config, ModelConfig, TrainConfig, load_config
from gam_kg.config_file import Section, base_file
from gam_kg.errors import ConfigError, GamKGError
from gam_kg.synthetic.groups import SyntheticConfig

CONFIGS = Path(__file__).parents[2] / "configs"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*overrides, path=None):
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    assert isinstance(error.value, GamKGError)
    return str(error.value)


def test_without_a_file_the_values_are_the_defaults():
    assert load_config() == Config()


def test_the_base_file_is_what_the_fields_say():
    text = (CONFIGS / "base.yaml").read_text(encoding="utf-8")
    assert text == base_file(Config()), "python -m gam_kg.config > configs/base.yaml"
    assert yaml.safe_load(text) == Config().model_dump(mode="json")
    assert max(map(len, text.splitlines())) <= 120


def sections(section=Config):
    yield section
    for field in section.model_fields.values():
        if isinstance(field.default, Section):
            yield from sections(type(field.default))


@pytest.mark.parametrize("section", [*sections(), SyntheticConfig], ids=lambda section: section.__name__)
def test_every_key_has_a_description(section):
    assert section.model_fields
    for name, field in section.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_in_configs_is_valid(path):
    assert load_config(path).name == path.stem


def test_the_name_is_the_file_name_when_not_given(tmp_path):
    assert load_config(write(tmp_path / "births.yaml", "seed: 3")).name == "births"
    assert load_config(write(tmp_path / "empty.yaml", "")) == Config(name="empty")
    assert load_config(write(tmp_path / "deaths.yaml", "name: wars")).name == "wars"


def test_precedence_is_defaults_then_extended_file_then_file_then_overrides(tmp_path):
    write(tmp_path / "below.yaml", "name: below\nseed: 1\ntrain: {epochs: 11, window: 1, patience: 7}")
    folder = tmp_path / "more"
    folder.mkdir()
    write(folder / "middle.yaml", "extends: ../below.yaml\nname: middle\ntrain: {epochs: 12, patience: 8}")
    top = write(folder / "top.yaml", "extends: middle.yaml\nname: top\ntrain: {epochs: 13}")
    found = load_config(top, ["train.epochs=14", "model.dim=8", "train.epochs=15"])
    assert (found.name, found.seed) == ("top", 1)
    assert (found.train.epochs, found.train.patience, found.train.window) == (15, 8, 1)
    assert found.train.learning_rate == TrainConfig().learning_rate
    assert found.model == ModelConfig(dim=8)


def test_overrides_are_read_as_yaml():
    found = load_config(
        None,
        [
            "data.facts=a=b.parquet",
            "train.use_gpu=true",
            "train.learning_rate=1e-2",
            "evaluate.splits=[test]",
            "model={dim: 12, heads: 3}",
            "run_dir=null",
            "data.columns.subject=who",
        ],
    )
    assert found.data.facts == "a=b.parquet"
    assert (found.train.use_gpu, found.train.learning_rate, found.run_dir) == (True, 0.01, None)
    assert found.evaluate.splits == ("test",)
    assert (found.model.dim, found.model.heads) == (12, 3)
    assert (found.data.columns.subject, found.data.columns.object) == ("who", "object")


@pytest.mark.parametrize("value", ["2014-11-30", "'2014-11-30'"])
def test_a_date_boundary_keeps_its_text(value):
    found = load_config(None, [f"data.split.valid_start={value}", "data.split.test_start=2014-12-31"])
    assert (found.data.split.valid_start, found.data.split.test_start) == ("2014-11-30", "2014-12-31")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epoch=3", ["train.epoch", "unknown key", "epochs", "patience"]),
        ("model.history.recnt=1", ["model.history.recnt", "unknown key", "recent", "two_hop_first"]),
        ("modl.dim=4", ["modl", "unknown key", "model", "train"]),
        ("train.epochs=0", ["train.epochs", "greater than or equal to 1", "found 0"]),
        ("train.label_smoothing=1", ["train.label_smoothing", "less than 1", "found 1"]),
        ("train.learning_rate=-0.5", ["train.learning_rate", "greater than 0", "found -0.5"]),
        ("train.learning_rate=.nan", ["train.learning_rate", "finite", "nan"]),
        ("train.window=two", ["train.window", "valid integer", "'two'"]),
        ("prepare.buckets=5000", ["prepare.buckets", "less than or equal to 4096", "found 5000"]),
        ("prepare.max_bad_fraction=1.5", ["prepare.max_bad_fraction", "less than or equal to 1", "1.5"]),
        ("prepare.memory_gib=2", ["prepare.memory_gib", "greater than or equal to 3", "found 2"]),
        ("train.max_logits=2147483648", ["train.max_logits", "less than or equal to 2147483647", "found 2147483648"]),
        ("model.decoder=tucker", ["model.decoder", "'mlp'", "'conv_transe'", "'tucker'"]),
        ("data.time_unit=fortnight", ["data.time_unit", "'day'", "'fortnight'"]),
        ("evaluate.splits=[train]", ["evaluate.splits", "'valid'", "'train'"]),
        ("model.dim=10", ["model", "dim=10", "heads=4"]),
        ("model={decoder: complex, dim: 5, heads: 5}", ["model", "dim=5", "even"]),
        ("data.time_unit=0", ["data.time_unit", "greater than or equal to 1", "found 0"]),
        ("data.split.valid_start=3", ["data.split", "valid_start", "test_start"]),
        ("data.split={valid_fraction: 0.5, test_fraction: 0.5}", ["data.split", "below 1"]),
        ("model=3", ["model", "found 3"]),
    ],
)
def test_a_refusal_names_the_key_the_value_and_what_is_allowed(override, expected):
    message = refusal(override)
    for part in expected:
        assert part in message


def test_all_problems_are_reported_at_once_with_their_file(tmp_path):
    path = write(tmp_path / "bad.yaml", "seed: -1\ntrain: {epochs: 0}\nnews: 1")
    message = refusal(path=path)
    assert "bad.yaml: 3 problem(s)" in message
    assert all(key in message for key in ("seed", "train.epochs", "news"))


@pytest.mark.parametrize("override", ["train.epochs", "=3", "", "train.epochs=[", "seed.more=3"])
def test_an_override_that_cannot_be_read_is_refused(override):
    assert (override or "''") in refusal("seed=1", override)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    assert "missing.yaml" in refusal(path=tmp_path / "missing.yaml")
    assert "not valid YAML" in refusal(path=write(tmp_path / "broken.yaml", "a: [1"))
    assert "found list" in refusal(path=write(tmp_path / "list.yaml", "- 1"))
    assert "missing.yaml" in refusal(path=write(tmp_path / "lost.yaml", "extends: missing.yaml"))


def test_files_that_extend_each_other_are_refused(tmp_path):
    write(tmp_path / "a.yaml", "extends: b.yaml")
    assert "circle" in refusal(path=write(tmp_path / "b.yaml", "extends: a.yaml"))
    assert "circle" in refusal(path=write(tmp_path / "self.yaml", "extends: self.yaml"))


def test_a_config_does_not_change():
    config = load_config()
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 2  # ty: ignore[invalid-assignment]


def test_a_written_config_reads_back_the_same(tmp_path):
    config = load_config(None, ["model.dim=12", "data.split={valid_start: 3, test_start: 5}", "data.time_unit=2"])
    written = write(tmp_path / "resolved.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(written) == config


def test_the_run_folder_is_named_after_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Config(name="births").run_path == tmp_path / "runs" / "births"
    assert Config(run_dir="elsewhere").run_path == tmp_path / "elsewhere"
