"""Metrics of a training reach MLflow, and what is wrong with it is said before the training, or ends none."""

import pytest

from gam_kg.config import Config, TrainConfig
from gam_kg.errors import ConfigError
from gam_kg.training.loggers import MLflowLogger, TensorBoardLogger, log_evaluation, open_loggers

EPOCH = {"epoch": 1, "loss": 0.5, "valid_mrr": 0.25, "phases": {"plan": 0.5}}


@pytest.fixture
def config(tmp_path):
    (tmp_path / "run" / "log").mkdir(parents=True)
    return Config(name="mine", run_dir=str(tmp_path / "run"), train=TrainConfig(loggers=("mlflow",)))


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client of a store in a folder, which stands for the server."""
    mlflow = pytest.importorskip("mlflow")
    uri = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return mlflow.MlflowClient(tracking_uri=uri)


def runs(client, experiment="gam-kg"):
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_settings_epochs_and_evaluation_are_in_one_run(config, client):
    (first,) = open_loggers(config, anew=True)
    first.log(EPOCH, 1)
    (again,) = open_loggers(config, anew=False)  # as an interrupted training that goes on
    again.log(EPOCH | {"epoch": 2, "loss": 0.25}, 2)
    again.end("FINISHED")
    both = {"both": {"mrr": 0.5, "hits@1": 0.125}}
    log_evaluation(config, {"test": {"single_step": {"time_aware": both}}, "baselines": {}})
    (run,) = runs(client)
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert run.data.params["model.dim"] == "200"
    assert run.data.params["train.loggers"] == "['mlflow']"
    assert run.data.metrics["phases/plan"] == 0.5
    assert run.data.metrics["test/single_step/mrr"] == 0.5
    assert run.data.metrics["test/single_step/hits_at_1"] == 0.125
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 0.5), (2, 0.25)]


def test_a_training_anew_is_another_run_in_the_experiment_that_is_named(config, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "facts")
    for _ in range(2):
        open_loggers(config, anew=True)
    assert len(runs(client, "facts")) == 2


def test_a_server_that_goes_away_ends_no_training(config, client, monkeypatch, caplog):
    (found,) = open_loggers(config, anew=True)

    def refuse(*_, **__):
        raise OSError("connection refused")

    monkeypatch.setattr(found._client, "log_metric", refuse)
    found.log(EPOCH, 1)
    assert "MLflow: connection refused" in caplog.text


@pytest.mark.parametrize("uri", [None, "gopher://nowhere"])
def test_an_evaluation_is_finished_without_the_server_of_its_training(config, monkeypatch, caplog, uri):
    (config.run_path / "log" / "mlflow_run").write_text("of the training")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri:
        pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    log_evaluation(config, {"test": {"single_step": {"time_aware": {"both": {"mrr": 0.5}}}}})
    assert "the metrics of the evaluation are not in MLflow" in caplog.text
    assert "MLFLOW_TRACKING_URI" in caplog.text


def test_mlflow_without_a_server_is_refused(config, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        MLflowLogger(config, anew=True)


def test_a_store_that_is_none_is_refused(config, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://nowhere")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: MLflow cannot be used"):
        MLflowLogger(config, anew=True)


def test_loggers_are_those_of_the_settings(config):
    assert open_loggers(config.model_copy(update={"train": TrainConfig(loggers=())}), anew=True) == []
    pytest.importorskip("tensorboard")
    (only,) = open_loggers(config.model_copy(update={"train": TrainConfig()}), anew=True)
    assert isinstance(only, TensorBoardLogger)
    log_evaluation(config, {})  # a training without MLflow
    assert not list((config.run_path / "log").iterdir())
