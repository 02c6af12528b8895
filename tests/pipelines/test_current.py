"""What is current, what is not and says so, and what is refused: settings, facts, imports, owners of a run."""

import logging
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from flows import with_run_dir, write_facts

from gam_kg.artifacts import read_manifest
from gam_kg.config import load_config
from gam_kg.errors import ConfigError, DataError
from gam_kg.versions import artifact_folder
from gam_kg.workflow.imports import facts_to_import, import_if_missing
from gam_kg.workflow.situation import finished
from pipelines.embed import embed
from pipelines.evaluate import evaluate
from pipelines.predict import predict
from pipelines.prepare import prepare
from pipelines.report import report
from pipelines.run import run
from pipelines.search import Question, search
from pipelines.train import train

pytestmark = pytest.mark.ray


@pytest.fixture
def copied(finished, tmp_path):
    """The configuration of a copy of the finished run, whose facts are a copy too."""
    config, _ = finished
    shutil.copytree(config.run_path, tmp_path / "run")
    shutil.copy2(config.data.facts, tmp_path / "facts.parquet")
    moved = with_run_dir(config, tmp_path / "run", data={"facts": str(tmp_path / "facts.parquet")})
    prepare(moved)  # records where the facts are now
    return moved


def state(run_path):
    """Every file of a run with its time of change."""
    return {path: path.stat().st_mtime_ns for path in run_path.rglob("*") if path.is_file()}


def content(config, kind):
    return read_manifest(artifact_folder(config.run_path, kind), kind).content


def test_a_finished_run_says_so_without_ray_or_torch_and_writes_nothing(copied):
    before = state(copied.run_path)
    code = (
        "import sys; from pipelines.cli import main\n"
        "try: main()\n"
        "finally: print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "run", str(copied.run_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "finished: up to date" in done.stderr
    assert "GAM_LSTM" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert state(copied.run_path) == before


@pytest.mark.parametrize(
    ("stage", "sections", "expected"),
    [
        (train, {"data": {"time_unit": "week"}}, ["data.time_unit=week", "made with auto", "gam-kg prepare"]),
        (evaluate, {"model": {"dim": 64}}, ["model.dim=64", "made with 16", "gam-kg train"]),
        (embed, {"seed": 5}, ["seed=5", "made with 0", "gam-kg train"]),
        (predict, {"prepare": {"buckets": 8}}, ["prepare.buckets=8", "made with 4", "gam-kg prepare"]),
        (report, {"evaluate": {"baselines": False}}, ["evaluate.baselines=false", "true", "gam-kg evaluate"]),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_settings_that_inputs_were_not_made_with_are_refused(copied, stage, sections, expected, force):
    before = state(copied.run_path)
    with pytest.raises(ConfigError) as caught:
        stage(with_run_dir(copied, copied.run_path, **sections), force=force)
    assert all(part in str(caught.value) for part in expected)
    assert state(copied.run_path) == before


def test_the_configuration_of_a_run_is_that_of_its_artifacts(copied, tmp_path):
    queries = pa.table({"subject": ["person 1"], "relation": ["visits"]})
    pq.write_table(queries, tmp_path / "queries.parquet")
    earlier = with_run_dir(copied, copied.run_path, embed={"at": "2020-01-10"})
    embed(earlier)
    predict(with_run_dir(copied, copied.run_path, predict={"queries": str(tmp_path / "queries.parquet")}))
    fewer = with_run_dir(copied, copied.run_path, evaluate={"splits": ["test"]}, train={"threads": 2})
    evaluate(fewer)
    report(fewer)
    found = load_config(copied.run_path / "config.yaml")
    assert found.embed.at is None, "a version of a past moment is beside the latest"
    assert found.predict.queries == str(tmp_path / "queries.parquet")
    assert found.evaluate.splits == ("test",)
    assert found.train.threads == 2
    assert finished(found)
    assert not finished(earlier)
    before = state(copied.run_path)
    embed(with_run_dir(earlier, copied.run_path, evaluate={"facts": 7}))
    assert state(copied.run_path) == before, "a stage that is skipped writes nothing"


def test_facts_that_changed_are_noticed_until_a_new_checkpoint_is_whole(copied, caplog, capsys):
    old = read_manifest(copied.run_path / "graph", "graph").id
    write_facts(copied.data.facts, num_days=26)
    caplog.set_level(logging.INFO, "gam_kg")
    evaluate(copied)
    assert "facts.parquet have changed since graph/ was made from them" in caplog.text
    assert "run: gam-kg run CONFIG" in caplog.text
    embed(copied, force=True)
    assert "have changed" in content(copied, "embeddings")["notices"][0]
    evaluate(copied, force=True)
    assert "have changed" in (report(copied) / "report.html").read_text()

    prepare(copied)
    assert read_manifest(copied.run_path / "graph.next", "graph").id != old
    assert read_manifest(copied.run_path / "graph", "graph").id == old
    caplog.clear()
    search(copied.run_path, Question(like="person 1", top_k=3))
    assert "have changed" in caplog.text
    assert "a new graph waits" in caplog.text
    assert "nearest to person 1 after 2020-01-24" in capsys.readouterr().out

    train(copied)
    assert not (copied.run_path / "graph.next").exists()
    assert read_manifest(copied.run_path / "graph", "graph").id != old
    caplog.clear()
    search(copied.run_path, Question(like="person 1", top_k=3))
    assert caplog.text == ""
    assert "nearest to person 1 after 2020-01-26" in capsys.readouterr().out
    embed(copied)
    assert "notices" not in content(copied, "embeddings")


def test_a_graph_that_waits_is_dropped_where_the_old_one_is_right_again(copied):
    other = with_run_dir(copied, copied.run_path, prepare={"buckets": 2})
    prepare(other)
    with pytest.raises(ConfigError, match=r"buckets=2, but graph/ was made with 4; run: gam-kg train CONFIG"):
        embed(other)
    with pytest.raises(ConfigError, match=r"buckets=4, but graph.next/ was made with 2; run: gam-kg prepare CONFIG"):
        train(copied)
    assert not finished(copied)
    prepare(copied)
    assert not (copied.run_path / "graph.next").exists()
    assert finished(copied)


def test_facts_of_another_place_must_be_equal(copied, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "gam_kg")
    shutil.copy(copied.data.facts, tmp_path / "same.parquet")
    evaluate(with_run_dir(copied, copied.run_path, data={"facts": str(tmp_path / "same.parquet")}))
    assert caplog.text == ""
    write_facts(tmp_path / "other.parquet", num_days=25)
    for name in ("other.parquet", "missing.parquet"):
        with pytest.raises(ConfigError, match=f"{name}: graph/ was made from .*facts.parquet"):
            evaluate(with_run_dir(copied, copied.run_path, data={"facts": str(tmp_path / name)}))
    (tmp_path / "facts.parquet").unlink()
    evaluate(copied)
    assert "facts.parquet are gone" in caplog.text


def test_facts_that_change_while_they_are_read_are_refused(copied, monkeypatch):
    import pipelines.prepare

    make_graph = pipelines.prepare.make_graph

    def change(*arguments):
        made = make_graph(*arguments)
        write_facts(copied.data.facts, num_days=25)
        return made

    monkeypatch.setattr(pipelines.prepare, "make_graph", change)
    with pytest.raises(DataError, match="changed while they were read"):
        prepare(copied, force=True)
    assert not finished(with_run_dir(copied, copied.run_path, data={"facts": None}))
    assert not (copied.run_path / "graph.next").exists()


def test_a_table_is_imported_again_when_it_or_its_settings_change(copied, tmp_path, caplog):
    table, facts = tmp_path / "facts.csv", tmp_path / "imported.parquet"
    frame = pq.read_table(copied.data.facts).to_pandas()
    frame["timestamp"] = frame["timestamp"].dt.strftime("%Y-%m-%d")
    frame.to_csv(table, index=False)
    caplog.set_level(logging.INFO, "gam_kg")
    config = with_run_dir(copied, tmp_path / "new", data={"import_from": str(table), "facts": str(facts)})
    import_if_missing(config)
    prepare(config)
    first = facts.stat().st_mtime_ns
    import_if_missing(config)
    assert facts.stat().st_mtime_ns == first

    frame.assign(subject="new " + frame["subject"]).to_csv(table, index=False)
    caplog.clear()
    with pytest.raises(ConfigError, match="gam-kg prepare"):
        train(
            with_run_dir(config, config.run_path, data={"columns": {**config.data.columns.model_dump(), "object": "o"}})
        )
    import_if_missing(config)
    assert set(pq.read_table(facts)["subject"].to_pylist()) == {f"new {name}" for name in set(frame["subject"])}

    swapped = {**config.data.columns.model_dump(), "subject": "object", "object": "subject"}
    import_if_missing(with_run_dir(config, config.run_path, data={"columns": swapped}))
    assert set(pq.read_table(facts)["object"].to_pylist()) == {f"new {name}" for name in set(frame["subject"])}

    table.unlink()
    caplog.clear()
    import_if_missing(with_run_dir(config, config.run_path, data={"columns": swapped}))
    assert "facts.csv is gone" in caplog.text
    with pytest.raises(DataError, match="does not exist"):
        import_if_missing(config)


def test_a_file_that_is_no_import_is_not_replaced(copied, tmp_path):
    table = tmp_path / "facts.csv"
    pd.DataFrame({"subject": ["a"], "relation": ["r"], "object": ["b"], "timestamp": [1]}).to_csv(table, index=False)
    before = (tmp_path / "facts.parquet").read_bytes()
    config = with_run_dir(copied, copied.run_path, data={"import_from": str(table)})
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"facts.parquet exists and was not imported"):
            facts_to_import(config, force=force)
    assert (tmp_path / "facts.parquet").read_bytes() == before


HOLDER = "import sys, time; from pathlib import Path; from gam_kg.run_lock import run_lock\n" + (
    "with run_lock(Path(sys.argv[1]), 'train'): print('owned', flush=True); time.sleep(100)"
)


def test_every_verb_that_writes_waits_for_no_owner_and_names_it(copied):
    (copied.run_path.parent / "my.yaml").write_text(yaml.safe_dump(copied.model_dump(mode="json")))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(copied.run_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "owned\n"
        before = state(copied.run_path)
        for verb in (run, prepare, train, evaluate, embed, predict, report):
            with pytest.raises(Exception, match=f"is in use: gam-kg train, process {holder.pid} of ") as caught:
                verb(copied, force=True)
            assert type(caught.value).__name__ == "RunInUseError"
        before[copied.run_path / ".lock"] = (copied.run_path / ".lock").stat().st_mtime_ns
        assert state(copied.run_path) == before
    finally:
        holder.kill()
        holder.communicate()
    assert embed(copied).exists(), "a lock whose process has ended is no obstacle"


def test_many_bad_rows_are_told_wherever_results_are_shown(tmp_path, local_ray, capsys, caplog):
    frame = write_facts(tmp_path / "facts.parquet")
    frame.loc[: len(frame) // 2 - 1, "subject"] = None
    frame = frame.sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "facts.parquet")
    settings = [
        "model.dim=16",
        "train.epochs=1",
        "train.num_workers=0",
        "train.threads=1",
        "prepare.max_bad_fraction=0.6",
    ]
    facts = [f"data.facts={tmp_path / 'facts.parquet'}", f"run_dir={tmp_path / 'run'}"]
    config = load_config(None, [*settings, *facts, "evaluate.baselines=false"])
    run(config)
    found_notice = f"{len(frame) // 2:,} of {len(frame):,} rows of the facts (50%) could not be used"
    assert found_notice in capsys.readouterr().out
    for kind in ("checkpoint", "embeddings", "evaluation", "predictions", "report"):
        assert found_notice in content(config, kind)["notices"][0], kind
    assert found_notice in (config.run_path / "report" / "report.html").read_text()
    caplog.set_level(logging.WARNING, "gam_kg")
    search(config.run_path, Question(like="place 1", top_k=1))
    assert found_notice in caplog.text
