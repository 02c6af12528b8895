import hashlib
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gam_kg.artifacts import read_manifest
from gam_kg.config import load_config
from gam_kg.errors import ConfigError, OutputError
from gam_kg.synthetic.generator import FACTS, World
from gam_kg.synthetic.groups import SyntheticConfig, plan_groups
from gam_kg.synthetic.multi_step import Cut
from gam_kg.synthetic.optimum import Optimum
from pipelines.cli import app
from pipelines.generate import generate
from pipelines.prepare import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

CONFIG = SyntheticConfig(entities=200, relations=12, facts=6000, snapshots=40, seed=7)


@pytest.fixture(scope="module")
def made(tmp_path_factory, local_ray):
    out = tmp_path_factory.mktemp("generate") / "facts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.generate._FACTS_A_FILE", 1500)
        return out, generate(out, CONFIG)


def read(out):
    return pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("*.parquet"))])


def digests(out):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir())}


def test_the_files_hold_what_the_library_generates(made):
    out, manifest = made
    assert sorted(file.name for file in out.iterdir()) == [
        "manifest.json",
        *(f"part-0000{i}.parquet" for i in range(4)),
    ]
    world = World(CONFIG)
    groups = [world.generate(group) for group in plan_groups(CONFIG)]
    assert read(out).equals(pa.concat_tables([facts.table() for group in groups for facts in group.facts]))
    assert read(out).schema == FACTS

    optimum = Optimum.empty(CONFIG.snapshots)
    for group in groups:
        optimum = optimum.merge(Optimum.of(group, CONFIG.snapshots))
    content, test = manifest.content, optimum.compute(manifest.content["test_start"], CONFIG.snapshots)
    assert content["num_facts"] == CONFIG.facts == len(read(out))
    for name, values in content["optimum"]["test"].items():
        assert values == pytest.approx(test[name], rel=1e-12)
    assert 0.3 < content["optimum"]["test"]["all"]["both"] < 1

    multi_step, start = Optimum.empty(CONFIG.snapshots), content["test_start"]
    for group in groups:
        multi_step = multi_step.merge(Optimum.after(Cut(group, start, CONFIG.noise, CONFIG.snapshots)))
    found = content["optimum"]["multi_step"]
    assert list(found) == ["1", "2", "3-5"]
    assert sum(values["all"]["facts"] for values in found.values()) == content["optimum"]["test"]["all"]["facts"]
    for name, last in {"1": start, "2": start + 1, "3-5": CONFIG.snapshots - 1}.items():
        for role, values in multi_step.compute(start + int(name[0]) - 1, last + 1).items():
            assert found[name][role] == pytest.approx(values, rel=1e-12), (name, role)
    assert read_manifest(out, "synthetic").id == manifest.id
    assert manifest.config["seed"] == 7


def test_prepare_takes_it_as_it_is_and_divides_time_as_the_manifest_says(made, tmp_path):
    out, manifest = made
    graph = prepare(load_config(overrides=[f"data.facts={out}", f"run_dir={tmp_path}"]))
    content = read_manifest(graph, "graph").content
    assert content["quarantined"] == {}
    assert content["merged"] == 0
    for name in ("num_facts", "num_entities", "num_relations", "num_snapshots", "valid_start", "test_start"):
        assert content[name] == manifest.content[name], name
    assert content["splits"]["test"] == manifest.content["optimum"]["test"]["all"]["facts"]
    assert content["splits"]["valid"] == manifest.content["optimum"]["valid"]["all"]["facts"]


def test_other_files_hold_the_same_facts_and_another_seed_others(made, tmp_path):
    out, manifest = made
    whole = generate(tmp_path / "whole", CONFIG)
    assert [file.name for file in (tmp_path / "whole").glob("*.parquet")] == ["part-00000.parquet"]
    assert read(tmp_path / "whole").equals(read(out))
    assert whole.key == manifest.key
    found, expected = whole.content["optimum"]["test"]["all"], manifest.content["optimum"]["test"]["all"]
    assert found == pytest.approx(expected, rel=1e-12)
    other = SyntheticConfig(entities=200, relations=12, facts=6000, snapshots=40, seed=8)
    assert generate(tmp_path / "other", other).key != manifest.key
    assert not read(tmp_path / "other").equals(read(out))


def test_nothing_is_replaced_but_a_generated_graph_and_only_when_forced(made, tmp_path):
    out, _ = made
    before = digests(out)
    with pytest.raises(ConfigError, match=r"OUT: .* is there already.*--force"):
        generate(out, CONFIG)
    assert digests(out) == before
    generate(tmp_path / "again", CONFIG)
    forced = generate(tmp_path / "again", SyntheticConfig(entities=100, facts=2000, snapshots=40), force=True)
    assert len(read(tmp_path / "again")) == forced.content["num_facts"] == 2000

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for mine in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        for force in (False, True):
            with pytest.raises(ConfigError, match=r"OUT: .*is there"):
                generate(mine, CONFIG, force=force)
    with pytest.raises(OutputError, match="cannot write"):
        generate(tmp_path / "mine" / "thesis.txt" / "facts", CONFIG)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_what_fails_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        assert list(tmp_path.glob(".facts.staging-*/part-*.parquet"))
        raise RuntimeError("half way")

    monkeypatch.setattr("pipelines.generate._boundaries", fail)
    with pytest.raises(RuntimeError, match="half way"):
        generate(tmp_path / "facts", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_the_verb_prints_sizes_and_optimum(tmp_path):
    out = tmp_path / "facts"
    options = ["--entities", "100", "--facts", "2000", "--snapshots", "30", "--chained", "0", "--seed", "2"]
    result = CliRunner().invoke(app, ["generate", str(out), *options])
    assert result.exit_code == 0, result.output
    content = json.loads((out / "manifest.json").read_text())["content"]
    best = content["optimum"]["test"]["all"]
    assert f"2,000 facts, {content['num_entities']} entities, 20 relations, 30 snapshots -> {out}" in result.output
    assert f"from timestamp {content['test_start']} on): {100 * best['both']:.2f} %" in result.output
    table = [line.split() for line in result.output.splitlines()[-2 - len(content["optimum"]["multi_step"]) :]]
    assert table[0] == ["horizon", "facts", "all", "recurrent", "persistent", "periodic", "random"]
    rows = {"single-step": content["optimum"]["test"]} | content["optimum"]["multi_step"]
    for cells, (name, values) in zip(table[1:], rows.items(), strict=True):
        assert cells[:2] == [name, str(values["all"]["facts"])]
        assert [float(cell) for cell in cells[2:] if cell != "-"] == [
            pytest.approx(100 * values[role]["both"], abs=0.005) for role in table[0][2:] if role in values
        ]
    names = np.unique(read(out)["relation"].to_pylist())
    assert len(names) == 20
    assert {name.split("_")[0] for name in names} == {"recurrent", "persistent", "periodic", "random"}


def test_every_setting_is_an_option_with_its_default_and_description():
    shown = " ".join(CliRunner().invoke(app, ["generate", "--help"]).output.split())
    for name, field in SyntheticConfig.model_fields.items():
        assert f"--{name} " in shown
        assert f"{field.description} [default: {field.default}]" in shown, name


def test_a_bad_value_is_named_with_what_is_allowed_and_ends_with_status_1(tmp_path):
    command = [sys.executable, "-m", "pipelines", "generate", str(tmp_path / "facts"), "--noise", "0.9"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    expected = "error: generate: 1 problem(s)\n      noise: Input should be less than or equal to 0.5 (found 0.9)\n"
    assert result.stderr.endswith(f" stage=- {expected}")
    assert not (tmp_path / "facts").exists()
