from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from graphs import NUM_RELATIONS, VALID_START, graph_of, periodic_facts, random_facts, tiny_config

from gam_kg.errors import GamKGError
from gam_kg.nn.noise import Noise
from gam_kg.train import loop
from gam_kg.train.loop import Trainer
from gam_kg.train.optimizer import learning_rate


def spied(trainer, monkeypatch):
    """The steps of a training: what each was asked, with the window and the memory it started from."""
    steps, original = [], loop.backward_snapshot

    def spy(model, memory, window, queries, history, noise, *more):
        subject, relation = queries.subject[queries.answer_query], queries.relation[queries.answer_query]
        columns = (subject, relation, queries.answer)
        steps.append(
            {
                "epoch": trainer.position.epoch,
                "noise": noise,
                "time": queries.time,
                "window": [snapshot.time for snapshot in window],
                "last_seen": memory.last_seen.clone(),
                "answers": list(zip(*(column.tolist() for column in columns), strict=True)),
            }
        )
        return original(model, memory, window, queries, history, noise, *more)

    monkeypatch.setattr(loop, "backward_snapshot", spy)
    list(trainer.run())
    return steps


@pytest.mark.parametrize("answers_per_step", [1, 1000])
def test_every_answer_of_train_is_seen_exactly_once_an_epoch(monkeypatch, answers_per_step):
    facts = random_facts(0)
    config = tiny_config(epochs=2, patience=2, answers_per_step=answers_per_step, max_logits=50)
    trainer = Trainer(config, graph_of(facts))
    steps = spied(trainer, monkeypatch)
    train = facts[facts[:, 3] < VALID_START].tolist()
    expected = Counter([(s, r, o, t) for s, r, o, t in train] + [(o, r + NUM_RELATIONS, s, t) for s, r, o, t in train])
    for epoch in (0, 1):
        mine = [step for step in steps if step["epoch"] == epoch]
        assert Counter((*answer, step["time"]) for step in mine for answer in step["answers"]) == expected
        asked = Counter((step["time"], pair) for step in mine for pair in {answer[:2] for answer in step["answers"]})
        assert set(asked.values()) == {1}  # a query is asked once, with all its answers
        times = [step["time"] for step in mine]
        assert times == sorted(times)
    assert len(steps) == trainer.position.step
    assert [step["noise"] for step in steps] == [Noise(config.seed, number) for number in range(len(steps))]
    assert (len(steps) > 10) == (answers_per_step == 1)


@pytest.mark.parametrize("window", [0, 1, 2, 4])
def test_a_step_starts_from_the_memory_stored_before_its_window(monkeypatch, window):
    facts = random_facts(0)
    facts = facts[facts[:, 3] != 2]  # a snapshot without facts, which the window passes over
    graph = graph_of(facts)
    trainer = Trainer(tiny_config(epochs=2, patience=2, window=window), graph)
    steps = spied(trainer, monkeypatch)
    times = graph.times_in("train")
    assert [step["time"] for step in steps] == times * 2
    for step in steps:
        done = times.index(step["time"])
        assert step["window"] == times[max(0, done - window) : done]
        last_seen = torch.full((graph.num_entities,), -1)
        for time in times[: max(0, done - window)]:
            last_seen[graph.snapshot(time).active] = time
        assert torch.equal(step["last_seen"], last_seen)


def test_the_loss_falls_and_validation_ranks_rise_on_a_periodic_graph():
    facts = periodic_facts(24)
    graph = graph_of(facts, num_entities=8, num_relations=2, valid_start=20, test_start=22)
    config = tiny_config({"dim": 8}, epochs=6, patience=6, learning_rate=0.02, label_smoothing=0.0)
    trainer = Trainer(config, graph)
    list(trainer.run())
    losses = [epoch["loss"] for epoch in trainer.position.metrics]
    ranks = [epoch["valid_mrr"] for epoch in trainer.position.metrics]
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] < np.log(8) / 2  # half of what guessing costs
    assert max(ranks) > 0.7


def test_metrics_tell_the_mean_loss_of_the_epoch(monkeypatch):
    losses, original = [], loop.backward_snapshot

    def spy(*arguments, **options):
        loss = original(*arguments, **options)
        losses.append((float(loss), len(arguments[3].answer)))
        return loss

    monkeypatch.setattr(loop, "backward_snapshot", spy)
    trainer = Trainer(tiny_config(epochs=1, answers_per_step=5), graph_of(random_facts(0)))
    list(trainer.run())
    answers = sum(count for _, count in losses)
    expected = sum(loss * count for loss, count in losses) / answers
    assert trainer.position.metrics[0]["loss"] == pytest.approx(expected, rel=1e-12)


def with_validation(monkeypatch, scripted, **train):
    """A training whose epochs have these validation MRRs, with the weights after each."""
    values, weights = iter(scripted), []
    trainer = Trainer(tiny_config(**train), graph_of(random_facts(0)))

    def validation(model, *arguments, **options):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"mrr": next(values), "hits@1": 0.0, "hits@3": 0.0, "hits@10": 0.0, "count": 1}

    monkeypatch.setattr(loop, "validation_mrr", validation)
    list(trainer.run())
    return trainer, weights


@pytest.mark.parametrize(
    ("scripted", "patience", "epochs", "best"),
    [
        ([0.3, 0.2, 0.2, 0.9], 2, 3, 1),
        ([0.3, 0.2, 0.4, 0.1, 0.1, 0.9], 2, 5, 3),
        ([0.3, 0.3, 0.9], 1, 2, 1),  # as good is not better
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6, 6),
        ([0.0, 0.0, 0.0, 0.0], 3, 4, 1),
    ],
)
def test_training_stops_when_validation_stops_getting_better(monkeypatch, scripted, patience, epochs, best):
    trainer, weights = with_validation(monkeypatch, scripted, epochs=6, patience=patience)
    position = trainer.position
    assert trainer.finished
    assert (position.epoch, position.best_epoch, position.best_mrr) == (epochs, best, scripted[best - 1])
    assert len(weights) == epochs
    for name, value in trainer.best_weights.items():
        assert torch.equal(value, weights[best - 1][name])


def test_a_loss_that_is_not_finite_stops_training_and_names_the_setting(monkeypatch):
    monkeypatch.setattr(loop, "backward_snapshot", lambda *arguments, **options: torch.tensor(torch.nan))
    trainer = Trainer(tiny_config(epochs=1), graph_of(random_facts(0)))
    with pytest.raises(GamKGError, match=r"epoch 1, snapshot 0.*train\.learning_rate"):
        list(trainer.run())


def test_the_same_seed_trains_the_same_weights_and_another_seed_others():
    graph = graph_of(random_facts(0))

    def trained(seed):
        config = tiny_config({"dropout": 0.3, "entity_dropout": 0.3}, epochs=1).model_copy(update={"seed": seed})
        trainer = Trainer(config, graph)
        torch.manual_seed(np.random.default_rng().integers(1000))  # what others drew does not matter
        list(trainer.run())
        return trainer.model.state_dict()

    first, again, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["entity"], other["entity"])


def test_progress_counts_every_snapshot_and_tells_when_to_checkpoint():
    graph = graph_of(random_facts(0))
    trainer = Trainer(tiny_config(epochs=2, patience=2, checkpoint_steps=2), graph)
    told = list(trainer.run())
    train = [progress for progress in told if progress.phase == "train"]
    snapshots = len(graph.times_in("train"))
    assert [(progress.epoch, progress.done) for progress in train] == [
        (epoch, done) for epoch in (1, 2) for done in range(1, snapshots + 1)
    ]
    ended = [progress for progress in told if progress.metrics]
    assert [progress.epoch for progress in ended] == [1, 2]
    assert all(progress.checkpoint for progress in ended)
    # Steps 2 and 4 of the first epoch's five, then 6 and 8 of all ten; the epoch ends tell of the rest.
    assert [(progress.epoch, progress.done) for progress in train if progress.checkpoint] == [
        (1, 2),
        (1, 4),
        (2, 1),
        (2, 3),
    ]


def test_the_learning_rate_is_a_cosine_to_its_final_share():
    config = tiny_config(learning_rate=2.0, final_learning_rate=0.1, decay_epochs=5).train
    rates = [learning_rate(config, step / 2) for step in range(11)]
    assert rates[0] == 2.0
    assert rates[5] == pytest.approx(1.1)
    assert rates[10] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in pairwise(rates))


def test_the_learning_rate_stays_after_the_decay_and_does_not_depend_on_the_number_of_epochs():
    short, long = (tiny_config(decay_epochs=2, epochs=epochs).train for epochs in (1, 9))
    assert learning_rate(short, 0.5) == learning_rate(long, 0.5)
    assert learning_rate(long, 2.0) == learning_rate(long, 7.5)
