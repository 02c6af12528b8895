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


@pytest.mark.parametrize("text", ["010", "1_000", "12:30:00", "0x10", "0b11", "1e3", "2024-01-31", "2024"])
def test_a_timestamp_is_the_text_that_the_user_writes(tmp_path, text):
    for config in (
        load_config(None, [f"embed.at={text}"]),
        load_config(write(tmp_path / "at.yaml", f"embed:\n  at: {text}")),
    ):
        assert str(config.embed.at) == text


@pytest.mark.parametrize(
    "text", ["no", "on", "007", "7", "1.10", "2014-01-31", "a #b", "#1", "a: b", "*.csv", "[x].csv", "@x", "- x", "!x"]
)
def test_an_override_of_text_is_all_of_the_text(text):
    assert load_config(None, [f"data.columns.subject={text}"]).data.columns.subject == text


def test_numbers_lists_and_quoted_text_are_read_by_their_fields(tmp_path):
    path = write(tmp_path / "run.yaml", "train: {learning_rate: 1e-3, epochs: 08}\nmodel: {dropout: .25}")
    config = load_config(
        path, ["train.weight_decay=2.5e-2", "data.csv.quote='", 'name="a b"', "train.num_workers=[1, 2]"]
    )
    assert (config.train.learning_rate, config.train.epochs, config.model.dropout) == (1e-3, 8, 0.25)
    assert (config.train.weight_decay, config.data.csv.quote, config.name) == (0.025, "'", "a b")
    assert config.train.num_workers == (1, 2)


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
        ("train.learning_rate=-0.5", ["train.learning_rate", "greater than 0", "found '-0.5'"]),
        ("train.learning_rate=nan", ["train.learning_rate", "finite", "nan"]),
        ("train.epochs=[", ["train.epochs", "valid integer", "'['"]),
        ("embed.at=true", ["embed.at", "true is not allowed here"]),
        ("data.columns.object=subject", ["data.columns", "subject and object are the same column 'subject'"]),
        ("data.columns.object=split", ["data.columns", "object and split are the same column 'split'"]),
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
        ("model.dimm=3", ["model.dimm: unknown key; allowed here: name, dim,", "; did you mean model.dim?"]),
        ("learning_rate=3", ["learning_rate: unknown key; allowed here: name", "; did you mean train.learning_rate?"]),
        ("model.nothing_like_it=3", ["model.nothing_like_it: unknown key; allowed here: name, dim,"]),
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


@pytest.mark.parametrize(("text", "separator"), [(",", ","), ("|", "|"), ("\t", "\t"), ("\\t", "\t"), ("null", None)])
def test_a_separator_is_read_as_written(text, separator):
    assert load_config(None, [f"data.csv.separator={text}"]).data.csv.separator == separator


def test_a_form_of_timestamps_is_read_as_written():
    assert load_config(None, ["data.time_format=%d/%m/%Y"]).data.time_format == "%d/%m/%Y"


def test_a_separator_that_is_the_quote_is_refused():
    assert "must not be the quote" in refusal('data.csv.separator="')


@pytest.mark.parametrize("override", ["train.epochs", "=3", "", "seed.more=3"])
def test_an_override_that_cannot_be_read_is_refused(override):
    assert (override or "''") in refusal("seed=1", override)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    assert "missing.yaml" in refusal(path=tmp_path / "missing.yaml")
    assert "not valid YAML" in refusal(path=write(tmp_path / "broken.yaml", "a: [1"))
    assert "found list" in refusal(path=write(tmp_path / "list.yaml", "- 1"))
    assert "missing.yaml" in refusal(path=write(tmp_path / "lost.yaml", "extends: missing.yaml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2", "key 'seed' is there twice"),
        ("train: {epochs: 3, epochs: 3}", "key 'epochs' is there twice"),
        ("x: " + "[" * 2000, "not valid YAML"),
        ("seed: " + "9" * 5000, "seed"),
        ("# " + "x" * 2**20, "more than 1,048,576 bytes"),
        ("seed: yes", "seed"),
        ("seed: true", "true is not allowed here"),
        ("data: {split: {valid_start: false, test_start: 3}}", "false is not allowed here"),
        ("train: {epochs: 1:30}", "'1:30'"),
        ("train:", "train: expected keys with values"),
        ("name: ''", "name"),
        ("name: ..", "name"),
        ("name: /etc", "name"),
        ('name: "a\\0b"', "name"),
        ("run_dir: ''", "run_dir"),
        ('run_dir: "a\\0b"', "run_dir"),
        ("data: {facts: ' '}", "data.facts"),
        ("predict: {queries: ''}", "predict.queries"),
    ],
)
def test_what_could_be_read_in_two_ways_or_in_none_is_refused(tmp_path, text, expected):
    assert expected in refusal(path=write(tmp_path / "odd.yaml", text))


def test_numbers_are_decimal_and_words_are_text(tmp_path):
    text = "seed: 017\ndata: {columns: {subject: no, object: 1_0}, split: {valid_start: 010, test_start: 10:30}}"
    found = load_config(write(tmp_path / "plain.yaml", text))
    assert (found.seed, found.data.columns.subject, found.data.columns.object) == (17, "no", "1_0")
    assert (found.data.split.valid_start, found.data.split.test_start) == ("010", "10:30")


@pytest.mark.parametrize("text", ["*.parquet", "a #1.parquet", "a: b", "@x", "&x", "!x", "%x", "- x", "a\x1b"])
def test_an_override_that_is_plain_text_is_that_text(text):
    assert load_config(None, [f"data.facts={text}"]).data.facts == text


def test_an_override_without_a_value_is_refused():
    assert "write run_dir=null for none" in refusal("run_dir=")


def test_keys_of_an_override_join_those_below():
    found = load_config(None, ["train.epochs=3", "train={patience: 7}", "model={dim: 8}", "model={heads: 2}"])
    assert (found.train.epochs, found.train.patience, found.model.dim, found.model.heads) == (3, 7, 8, 2)


def test_files_that_extend_each_other_are_refused(tmp_path):
    write(tmp_path / "a.yaml", "extends: b.yaml")
    assert "circle" in refusal(path=write(tmp_path / "b.yaml", "extends: a.yaml"))
    assert "circle" in refusal(path=write(tmp_path / "self.yaml", "extends: self.yaml"))


def test_the_config_of_a_run_that_was_copied_is_not_taken_for_the_original(tmp_path):
    for run in (tmp_path / "run", tmp_path / "copy"):
        (run / "graph").mkdir(parents=True)
        write(run / "graph" / "manifest.json", "{}")
        write(run / "config.yaml", yaml.safe_dump({"run_dir": str(tmp_path / "run")}))
    copy = tmp_path / "copy"
    assert load_config(tmp_path / "run" / "config.yaml").run_path == tmp_path / "run"
    assert f"give run_dir={copy}" in refusal(path=copy / "config.yaml")
    assert load_config(copy / "config.yaml", [f"run_dir={copy}"]).run_path == copy


@pytest.mark.parametrize("given", ["demo", "configs/demo.yaml"])
def test_a_config_that_comes_with_the_package_has_a_name_in_any_folder(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    found = load_config(given, ["seed=3"])
    assert found == load_config(CONFIGS / "demo.yaml", ["seed=3"])
    assert (found.name, found.data.import_from) == ("demo", "lahman:1995")
    assert found.run_path == tmp_path / "runs" / "demo"
    (tmp_path / "demo").mkdir()
    assert load_config(given, ["seed=3"]) == found
    (tmp_path / "demo").rmdir()
    (tmp_path / given).parent.mkdir(exist_ok=True)
    write(tmp_path / given, "seed: 7")  # the user's own file comes first
    assert load_config(given).data.import_from is None
    assert load_config(given).seed == 7


@pytest.mark.parametrize("given", ["dmo", "demo.yaml", "there/configs/demo.yaml", "cluster/rayjob"])
def test_a_config_that_is_nowhere_is_refused_with_those_that_there_are(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    refused = refusal(path=given)
    assert refused.startswith(f"cannot read the config {given}: there is no such file")
    assert "demo, icews14" in refused
    assert str(CONFIGS) in refused


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
