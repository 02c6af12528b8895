"""A run whose weights were fine-tuned: which weights, memory and optimizer state are in use."""

import json

import numpy as np
import pytest
import torch
from graphs import tiny_config
from runs import train_run
from updates import END, LAST, SIZES, add_updates, divided_facts, new_names, write_prepared

from gam_kg.artifacts import read_manifest
from gam_kg.config import UpdateConfig
from gam_kg.errors import ArtifactError
from gam_kg.graph import folded_updates
from gam_kg.graph.folded_updates import fold_updates
from gam_kg.graph.temporal_graph import read_names
from gam_kg.graph.update_chain import read_updates, write_update
from gam_kg.inference.state import publish_state, state_parts, write_state_part
from gam_kg.inference.trained_run import TrainedRun
from gam_kg.inference.update import advance_run
from gam_kg.ingest.vocabulary import Vocabulary
from gam_kg.training.fine_tune import fine_tune, newest_optimizer_state
from gam_kg.training.newest_weights import newest_weights

CONFIG = tiny_config({"dim": 4}, epochs=1, answers_per_step=8)
NO_FACTS = np.zeros((0, 4), dtype=np.int64)


def trained_run(folder):
    divided = divided_facts(0)
    write_prepared(folder, divided)
    train_run(folder, CONFIG)
    return divided


def optimizer_state_of(run):
    return newest_optimizer_state(run.path / "checkpoint", run.graph_manifest, run.updates, run.model)


def tuned(run, number=4):
    """A fine-tuning of the run."""
    return fine_tune(
        CONFIG,
        run.graph,
        run.model,
        optimizer_state_of(run),
        number,
        history=run.history,
        memory_before=lambda snapshot: run.memory_before(snapshot).copy(),
    )


def update(run, tuning=None, **more):
    """Write an update of the run, with the weights of a fine-tuning; without `facts`, it brings none."""

    def write_weights(folder):
        if tuning is not None:
            tuning.write(folder)
        return {}

    known = tuple(
        Vocabulary(read_names(run.path / "graph", kind, run.updates), kind) for kind in ("entity", "relation")
    )
    return write_update(
        run.path,
        graph=run.graph_manifest,
        checkpoint=run.checkpoint_manifest,
        previous=run.updates[-1] if run.updates else None,
        vocabularies=known,
        write_more=write_weights,
        **{"facts": NO_FACTS, **more},
    )


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_checkpoint_has_the_optimizer_state_that_fine_tuning_starts_from(tmp_path):
    trained_run(tmp_path)
    run = TrainedRun.load(tmp_path)
    state, epoch = optimizer_state_of(run), json.loads((tmp_path / "checkpoint" / "metrics.jsonl").read_text())
    for name, parameter in run.model.named_parameters():
        assert state[f"{name}.exp_avg"].shape == state[f"{name}.exp_avg_sq"].shape == parameter.shape
        assert state[f"{name}.step"] == epoch["step"]
    assert state["entity.exp_avg_sq"].any()
    files = read_manifest(tmp_path / "checkpoint", "checkpoint").files
    assert {"optimizer.safetensors", "optimizer-00000-of-00001.safetensors"} <= files.keys()


def test_a_run_has_the_weights_of_its_last_fine_tuning_and_is_prepared_with_those_of_training(tmp_path):
    divided = trained_run(tmp_path)
    checkpoint = TrainedRun.load(tmp_path).checkpoint_manifest
    add_updates(tmp_path, divided, checkpoint)
    run = TrainedRun.load(tmp_path)
    assert newest_weights(run.path / "checkpoint", run.updates) == (run.path / "checkpoint", ())
    first = tuned(run)
    update(run, first)
    once = TrainedRun.load(tmp_path)
    assert newest_weights(once.path / "checkpoint", once.updates)[0] == tmp_path / "updates" / "000004"
    assert_equal(once.model.state_dict(), first.model.state_dict())
    assert_equal(optimizer_state_of(once), first.optimizer_state)
    assert not torch.equal(once.model.shared, run.model.shared)
    assert torch.equal(once.as_prepared.model.shared, run.model.shared)
    # Later updates without weights, with new entities and relations, have those of the fine-tuning.
    (entities, relations), facts = SIZES[-1], np.array([[10, 4, 0, LAST], [0, 0, 10, LAST + 1]])
    names = {"entities": new_names("entity", entities, entities + 1)}
    update(once, facts=facts, **names, relations=new_names("relation", relations, relations + 1))
    later = TrainedRun.load(tmp_path)
    assert newest_weights(later.path / "checkpoint", later.updates) == (once.updates[-1].path, once.updates)
    assert torch.equal(later.model.entity[:entities], first.model.entity)
    assert torch.equal(later.model.relation[-2:], first.model.relation[-2:])
    assert torch.equal(later.model.relation[relations + 1 : -3], first.model.relation[relations:-2])
    state = optimizer_state_of(later)
    assert torch.equal(state["relation.exp_avg"][relations + 1 : -3], first.optimizer_state["relation.exp_avg"][4:-2])
    assert not state["entity.exp_avg"][entities:].any()
    second = tuned(later)
    update(later, second)
    assert_equal(TrainedRun.load(tmp_path).model.state_dict(), second.model.state_dict())
    assert not torch.equal(second.model.shared, first.model.shared)


@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer-00000-of-00001.safetensors"])
def test_damage_of_fine_tuned_weights_is_found(tmp_path, file, is_folded, monkeypatch):
    trained_run(tmp_path)
    run = TrainedRun.load(tmp_path)
    path = update(run, tuned(run)).path / file
    if is_folded:
        update(TrainedRun.load(tmp_path))  # the files of the last one are read in any case
        monkeypatch.setattr(folded_updates, "_EVERY", 1)
        fold_updates(tmp_path, read_updates(tmp_path, run.graph_manifest))
        TrainedRun.load(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"updates/000001/{file} was changed or damaged.*gam-kg update"):
        TrainedRun.load(tmp_path)


def test_a_stored_state_gives_what_the_first_fact_gives_and_does_not_serve_afterwards(tmp_path):
    divided = divided_facts(0, late=False)
    write_prepared(tmp_path, divided)
    train_run(tmp_path, CONFIG)
    run = TrainedRun.load(tmp_path)
    with state_parts(tmp_path) as parts:
        found = advance_run(run, END, END, 0)
        write_state_part(parts, found.memory, run.history, found.baselines)
        publish_state(tmp_path, END - 1, run.made_from, parts, UpdateConfig())
    add_updates(tmp_path, divided, run.checkpoint_manifest)
    stored, anew = TrainedRun.load(tmp_path), TrainedRun.load(tmp_path)
    assert [state.after for state in stored.states] == [END - 1]
    vars(anew)["states"] = []
    found, expected = tuned(stored, LAST - END - 2), tuned(anew, LAST - END - 2)
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, msg=name)
    assert np.array_equal(found.ranks.answer, expected.ranks.answer)
    update(stored, found)
    after = TrainedRun.load(tmp_path)
    assert after.states == []
    memory = after.memory_before(LAST)
    assert torch.equal(memory.hidden, after.memory_before(LAST, anew=True).hidden)
    assert (memory.hidden - stored.memory_before(LAST).hidden).abs().max() > 1e-4
