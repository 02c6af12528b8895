"""The whole flow on a small periodic graph: every stage, from facts to answers, and what goes wrong."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flows import assert_same_weights, link, with_run_dir, write_facts

from gam_kg.config import EvaluateConfig, load_config
from gam_kg.distributed.communicator import Communicator
from gam_kg.errors import ArtifactError, ConfigError, DataError
from gam_kg.graph.snapshot import Queries
from gam_kg.inference import similarity, trained_run
from gam_kg.inference.embed import read_vectors
from gam_kg.inference.evaluation import evaluate_run
from gam_kg.inference.report_html import write_html
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.schemas import DIRECTIONS, FILTERS, PREDICTIONS, SETTINGS, STRATA
from gam_kg.training import checkpoint
from gam_kg.training.step_batch import query_block
from gam_kg.versions import artifact_folder, latest
from pipelines.embed import embed
from pipelines.evaluate import evaluate
from pipelines.predict import predict
from pipelines.report import report, show_table
from pipelines.run import run
from pipelines.train import train

pytestmark = pytest.mark.ray


def test_run_leaves_every_artifact(finished):
    config, _ = finished
    for name in ("graph", "checkpoint", "evaluation", "embeddings", "predictions", "report"):
        assert (artifact_folder(config.run_path, name) / "manifest.json").exists(), name
    assert (config.run_path / "report" / "report.png").stat().st_size > 10_000
    assert str(config.run_path.parent) not in (config.run_path / "report" / "report.html").read_text(encoding="utf-8")
    assert not list(config.run_path.glob(".*staging*"))
    assert not (config.run_path / "training").exists()
    assert load_config(config.run_path / "config.yaml") == config


def test_metrics_tree_is_complete_and_agrees_with_the_ranks(finished):
    config, facts = finished
    metrics = json.loads((config.run_path / "evaluation" / "metrics.json").read_text())
    ranks = pq.read_table(config.run_path / "evaluation" / "ranks.parquet").to_pandas()
    assert set(metrics["baselines"]) == {
        "popularity", "recurrency_strict", "recurrency_combined", "typed_pair_counts", "rule_counts"
    }  # fmt: skip
    for name, tree in {"": metrics, **metrics["baselines"]}.items():
        for split in ("valid", "test"):
            rows = ranks[ranks["split"] == split]
            for setting in SETTINGS:
                column = f"{name}_rank" if name else "rank"
                column += "" if setting == "single_step" else f"_{setting}"
                for by in FILTERS:
                    found = rows[column if by == "time_aware" else f"{column}_raw"]
                    for direction in DIRECTIONS:
                        queries = found if direction == "both" else found[rows["direction"] == direction]
                        leaf = tree[split][setting][by][direction]
                        assert leaf["count"] == len(queries)
                        assert leaf["mrr"] == pytest.approx((1 / queries).mean())
                        assert leaf["hits@3"] == pytest.approx((queries <= 3).mean())
                assert set(tree[split][setting]["strata"]) == set(STRATA)
                assert sum(s["count"] for s in tree[split][setting]["strata"].values()) == len(rows)
                assert sum(part["count"] for part in tree[split][setting]["entities"].values()) == len(rows)
                assert sum(point["count"] for point in tree[split][setting]["curve"]) == len(rows)
                assert sum(part["count"] for part in tree[split][setting]["horizons"].values()) == len(rows)
                assert ("calibration" in tree[split][setting]) == (not name)
    graph = json.loads((config.run_path / "graph" / "manifest.json").read_text())["content"]
    assert len(ranks) == 2 * (graph["splits"]["valid"] + graph["splits"]["test"])
    queries = ranks[ranks["direction"] == "object"]
    named = set(zip(facts.subject, facts.relation, facts.object, facts.timestamp.astype(str).str[:10], strict=True))
    assert set(zip(queries.subject, queries.relation, queries.object, queries.timestamp, strict=True)) <= named


def test_a_setting_alone_has_the_ranks_it_has_beside_the_other(finished):
    config, _ = finished
    both = pq.read_table(config.run_path / "evaluation" / "ranks.parquet")
    run = TrainedRun.load(config.run_path)
    alone = evaluate_run(run, EvaluateConfig(settings=("multi_step",), baselines=False)).ranks
    for name in ("rank_multi_step", "rank_multi_step_raw", "split", "object"):
        assert alone[name].equals(both[name]), name


def test_exported_embeddings_give_the_models_scores(finished):
    config, _ = finished
    loaded = TrainedRun.load(config.run_path)
    exported = torch.from_numpy(read_vectors(latest(config.run_path / "embeddings") / "entities.parquet").copy())
    relations = torch.from_numpy(read_vectors(latest(config.run_path / "embeddings") / "relations.parquet").copy())
    scorer = loaded.scorer_before(loaded.graph.end)
    assert torch.equal(scorer.vectors(), exported)
    assert torch.equal(loaded.model.relation.detach()[loaded.model.relation_rows()], relations)
    subject, relation = torch.tensor([0, 3]), torch.tensor([0, 1])
    nothing = torch.zeros(0, dtype=torch.int64)
    queries = Queries(loaded.graph.end, subject, relation, nothing, nothing)
    from_model = scorer.table(queries)
    with torch.no_grad():
        block = query_block(loaded.history, queries, Communicator())
        assert torch.equal(from_model.flatten(), loaded.model.scores(exported, block.layout))


def test_embeddings_are_plain_fixed_size_lists(finished):
    config, facts = finished
    table = pq.read_table(latest(config.run_path / "embeddings") / "entities.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", pa.float32(), nullable=False), 16)
    frame = table.to_pandas()
    last = pd.concat(
        [facts.set_index(side)["timestamp"].rename_axis("entity") for side in ("subject", "object")]
    ).groupby("entity").max()  # fmt: skip
    assert frame.set_index("entity")["last_seen"].to_dict() == last.dt.strftime("%Y-%m-%d").to_dict()
    assert frame["entity_id"].tolist() == list(range(len(frame)))
    assert np.linalg.norm(np.stack(frame["embedding"]), axis=1) == pytest.approx(1, abs=1e-5)


def test_embeddings_as_of_a_day_know_nothing_later(finished, tmp_path):
    config, facts = finished
    before = facts[facts["timestamp"] <= "2020-01-20"]
    earlier = with_run_dir(config, tmp_path / "run", embed={"at": "2020-01-20"})
    link(config, earlier, "graph", "checkpoint")
    embed(earlier)
    table = pq.read_table(latest(tmp_path / "run" / "embeddings") / "entities.parquet").to_pandas()
    assert table["last_seen"].dropna().max() == "2020-01-20"
    assert set(table.dropna(subset=["last_seen"])["entity"]) == set(before["subject"]) | set(before["object"])
    now = pq.read_table(latest(config.run_path / "embeddings") / "entities.parquet").to_pandas()
    assert not np.allclose(np.stack(now["embedding"]), np.stack(table["embedding"]))


def test_embedding_needs_no_history_and_writes_row_group_by_row_group(finished, tmp_path, monkeypatch):
    config, _ = finished
    again = with_run_dir(config, tmp_path / "run")
    link(config, again, "graph", "checkpoint")
    monkeypatch.setattr(similarity, "_GROUP", 4)
    monkeypatch.setattr(trained_run, "build_history", None)
    embed(again)
    files = [latest(path / "embeddings") / "entities.parquet" for path in (config.run_path, again.run_path)]
    assert pq.read_table(files[1]).equals(pq.read_table(files[0]))
    assert pq.read_metadata(files[1]).num_row_groups == -(-pq.read_metadata(files[0]).num_rows // 4)


def test_a_file_where_the_log_goes_is_explained(finished, tmp_path):
    config, _ = finished
    again = with_run_dir(config, tmp_path / "run")
    link(config, again, "graph")
    (again.run_path / "log").write_text("mine")
    with pytest.raises(ArtifactError, match="log is a file, where training needs a folder"):
        train(again)
    assert (again.run_path / "log").read_text() == "mine"


def test_predictions_are_the_models_best(finished, tmp_path):
    config, _ = finished
    queries = pa.table(
        {
            "subject": pa.array(["person 1", None, "person 2"]),
            "relation": ["visits", "visits", "calls"],
            "object": pa.array([None, "place 3", None]),
            "timestamp": pa.array(["2020-01-20", None, "2020-02-15"]),
        }
    )
    pq.write_table(queries, tmp_path / "queries.parquet")
    again = with_run_dir(config, tmp_path / "run", predict={"queries": str(tmp_path / "queries.parquet"), "top_k": 4})
    link(config, again, "graph", "checkpoint")
    found = pq.read_table(predict(again) / "predictions.parquet")
    assert found.schema.equals(PREDICTIONS)
    frame = found.to_pandas()
    assert frame["query_id"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert frame["timestamp"].tolist()[::4] == ["2020-01-20", "2020-01-25", "2020-02-15"]
    assert frame["snapshots_beyond_last_fact"].tolist()[::4] == [0, 1, 22]
    assert frame["object"].tolist()[4] == "place 3"
    assert frame["subject"].isna().tolist() == [False] * 4 + [True] * 4 + [False] * 4
    loaded = TrainedRun.load(config.run_path)
    time = loaded.axis.parse("2020-01-20")
    one = Queries(
        time,
        torch.from_numpy(loaded.entities.encode(["person 1"])),
        torch.from_numpy(loaded.relations.encode(["visits"])),
        *[torch.zeros(0, dtype=torch.int64)] * 2,
    )
    scores = loaded.scorer_before(time).table(one)[0]
    best = torch.topk(scores, 4)
    assert frame["answer_id"].tolist()[:4] == best.indices.tolist()
    np.testing.assert_allclose(frame["score"].to_numpy()[:4], best.values.numpy(), rtol=1e-5)
    probability = (scores / loaded.temperature(1)).softmax(0)[best.indices]
    np.testing.assert_allclose(frame["probability"].to_numpy()[:4], probability.numpy(), rtol=1e-4)


def test_a_run_predicts_what_comes_next_for_the_pairs_of_the_last_day(finished):
    config, facts = finished
    found = pq.read_table(latest(config.run_path / "predictions") / "predictions.parquet").to_pandas()
    last = facts[facts["timestamp"] == facts["timestamp"].max()]
    assert set(zip(found["subject"], found["relation"], strict=True)) == set(
        zip(last["subject"], last["relation"], strict=True)
    )
    assert set(found["timestamp"]) == {"2020-01-25"}
    seen = facts.assign(day=facts["timestamp"].dt.strftime("%Y-%m-%d")).groupby(["subject", "relation", "object"])[
        "day"
    ]
    times, last_seen = seen.nunique().to_dict(), seen.max().to_dict()
    for row in found.itertuples():
        fact = row.subject, row.relation, row.answer
        assert row.times_seen == times.get(fact, 0)
        assert (row.last_seen if row.times_seen else None) == last_seen.get(fact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": ["person 99"]}, "row 0: unknown entity 'person 99'; did you mean 'person 9'"),
        ({"timestamp": ["soon"]}, "row 0: soon cannot be read.*ISO 8601 without a time zone, as 2020-01-01"),
        ({"timestamp": ["1990-01-01"]}, "row 0: 1990-01-01 is before the first fact"),
        ({"subject": [1.5]}, "'subject' is double"),
        ({"time": ["2020-01-05"]}, "'time' looks like the timestamp"),
    ],
)
def test_queries_without_an_answer_are_explained(finished, tmp_path, change, message):
    config, _ = finished
    pq.write_table(pa.table({"subject": ["person 1"], "relation": ["visits"]} | change), tmp_path / "queries.parquet")
    again = with_run_dir(config, tmp_path / "run", predict={"queries": str(tmp_path / "queries.parquet")})
    link(config, again, "graph", "checkpoint")
    with pytest.raises(DataError, match=message):
        predict(again)
    assert not (tmp_path / "run" / "predictions").exists()


def test_stages_are_skipped_when_nothing_changed_and_redone_when_something_did(finished, tmp_path):
    config, _ = finished
    before = {path: path.stat().st_mtime_ns for path in config.run_path.rglob("manifest.json")}
    assert len(before) == 7, "state/ has one too"
    run(config)
    assert {path: path.stat().st_mtime_ns for path in config.run_path.rglob("manifest.json")} == before
    changed = with_run_dir(config, tmp_path / "run", evaluate={"settings": ["single_step"], "baselines": False})
    link(config, changed, "graph", "checkpoint", "evaluation", "report")
    evaluate(changed)
    metrics = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert list(metrics["test"]) == ["single_step"]
    assert metrics["baselines"] == {}
    page = report(changed) / "report.html"
    assert "GAM_LSTM" in page.read_text()


def test_training_continues_where_it_was_stopped(finished, tmp_path, monkeypatch):
    config, _ = finished
    again = with_run_dir(config, tmp_path / "run", train={"checkpoint_steps": 5})
    link(config, again, "graph")
    save, saved = checkpoint.save, []

    def save_thrice(trainer, folder):
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(trainer.position.step)
        save(trainer, folder)

    monkeypatch.setattr(checkpoint, "save", save_thrice)
    with pytest.raises(KeyboardInterrupt):
        train(again)
    assert not (again.run_path / "checkpoint").exists()
    monkeypatch.setattr(checkpoint, "save", save)
    train(again)
    assert saved[0] == 5, "the first checkpoint was inside the first epoch"
    assert_same_weights(config, again)


def test_ray_workers_train_the_same_weights(finished, tmp_path):
    config, _ = finished
    with_ray = with_run_dir(config, tmp_path / "run", train={"num_workers": 1})
    link(config, with_ray, "graph")
    train(with_ray)
    assert_same_weights(config, with_ray)
    lines = (with_ray.run_path / "checkpoint" / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert [metrics["epoch"] for metrics in epochs] == [1, 2]
    assert all(metrics["facts_per_second"] > 0 and metrics["peak_memory_bytes"] > 0 for metrics in epochs)
    assert list((with_ray.run_path / "log").glob("events.*")), "no TensorBoard log"


def test_artifacts_of_different_runs_are_refused(finished, tmp_path, local_ray):
    config, _ = finished
    write_facts(tmp_path / "facts.parquet", num_days=30)
    other = with_run_dir(config, tmp_path / "run", data={"facts": str(tmp_path / "facts.parquet")})
    from pipelines.prepare import prepare

    prepare(other)
    link(config, other, "checkpoint")
    with pytest.raises(ArtifactError, match="made from another graph"):
        embed(other)


def test_bad_times_and_names_are_explained(finished):
    config, _ = finished
    with pytest.raises(ConfigError, match="before the first fact"):
        embed(with_run_dir(config, config.run_path, embed={"at": "1999-01-01"}))
    for arguments, expected in (
        (["--like", "persn 1"], "did you mean 'person 1'"),
        (["--query", "person 1", "visited"], "did you mean 'visits'"),
        (["--like", "person 1", "--at", "never"], "never"),
    ):
        done = gam_kg("search", str(config.run_path), *arguments)
        assert done.returncode == 1
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


def test_search_shows_tables(finished):
    config, _ = finished
    done = gam_kg("search", str(config.run_path), "--query", "person 1", "visits", "--top-k", "3")
    assert done.returncode == 0
    assert done.stdout.count("place") + done.stdout.count("person") == 1 + 3, "the title and three answers"
    assert "1 snapshot(s) beyond the last fact (2020-01-24)" in done.stdout
    assert "times seen" in done.stdout
    done = gam_kg("search", str(config.run_path), "--like", "place 2", "--at", "2020-01-12", "--top-k", "4")
    assert done.returncode == 0
    assert "2020-01-12" in done.stdout
    assert "place 2" in done.stdout.splitlines()[0]


def test_names_with_brackets_are_shown_as_they_are(capsys):
    show_table("nearest to [/] Police [red] (Japan)", ["entity"], [["a [link=x]b"], ["[/bold]"]])
    shown = capsys.readouterr().out
    for name in ("[/] Police [red] (Japan)", "a [link=x]b", "[/bold]"):
        assert name in shown


def test_control_characters_of_names_do_not_reach_a_terminal_or_a_page(capsys, tmp_path):
    name = "a\x1b[2J\x07b\u202e\nc"
    show_table(f"nearest to {name}", [name], [[name]])
    shown = capsys.readouterr().out
    assert shown.count(r"a\x1b[2J\x07b\u202e\nc") == 3
    assert not set(shown) & set("\x1b\x07\u202e")
    script = f"<script>alert('{name}')</script>&\ud800"
    write_html(tmp_path / "report.html", script, [script], [([script], [[script]])])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;alert(&#x27;a\\x1b") == 5
    assert "<script" not in page
    assert not set(page) & set("\x1b\x07\u202e")


def test_a_report_refuses_an_evaluation_of_other_weights(finished, tmp_path):
    config, _ = finished
    other = with_run_dir(config, tmp_path / "run", train={"epochs": 1})
    link(config, other, "graph", "evaluation")
    train(other)
    with pytest.raises(ArtifactError, match="made from another checkpoint"):
        report(other)


def gam_kg(*arguments):
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
