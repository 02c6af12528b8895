from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from graphs import NUM_RELATIONS, VALID_START, graph_of, periodic_facts, random_facts, tiny_config

from gam_kg.errors import GamKGError
from gam_kg.ops.counter_rng import CounterRNG
from gam_kg.training import batches, optimizer_step
from gam_kg.training import trainer as trainer_module
from gam_kg.training.optimizer import learning_rate
from gam_kg.training.step_batch import to_device
from gam_kg.training.trainer import Trainer


def spied(trainer, monkeypatch):
    """The steps of a training: the answers of each batch, with the window and the memory it started from.

    `answers` are those of the step's own queries.
    """
    steps, times, rngs, backward_step, make = [], [], [], optimizer_step.backward_step, trainer._batches._batch

    def noted_time(queries, draws, *, whole):
        times.append(queries.time)
        rngs.append(draws.rng)
        return make(queries, draws, whole=whole)

    def spy(model, memory, batch, *more):
        by_horizon = defaultdict(list)
        for block in batch.blocks:
            for *answer, horizon in answers_of(block):
                by_horizon[horizon].append(tuple(answer))
        assert sum(map(len, by_horizon.values())) == batch.num_answers
        steps.append(
            {
                "epoch": trainer.position.epoch,
                "rng": rngs[-1],
                "time": times[-1],
                "window": [] if batch.window is None else [int(snapshot.time) for snapshot in batch.window.snapshots],
                "last_seen": memory.last_seen.clone(),
                "answers": by_horizon.pop(1),
            }
        )
        return backward_step(model, memory, batch, *more)

    monkeypatch.setattr(trainer._batches, "_batch", noted_time)
    monkeypatch.setattr(optimizer_step, "backward_step", spy)
    list(trainer.run())
    assert len(times) == len(steps)
    return steps


def answers_of(block):
    """Subject, relation, answer and horizon of the targets of a block over all entities."""
    block = to_device(block, torch.device("cpu"))  # cached blocks are narrow
    layout, targets = block.layout, block.targets
    horizon, relation = (
        of_kind[layout.kind[targets.query]] for of_kind in (layout.kinds.horizon, layout.kinds.relation)
    )
    columns = layout.subject[targets.query], relation, targets.position % layout.num_columns, horizon
    assert torch.equal(targets.position // layout.num_columns, targets.query)
    return list(zip(*(column.tolist() for column in columns), strict=True))


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
        queries = Counter((step["time"], pair) for step in mine for pair in {answer[:2] for answer in step["answers"]})
        assert set(queries.values()) == {1}  # a query is in one step, with all its answers
        times = [step["time"] for step in mine]
        assert times == sorted(times)
    assert len(steps) == trainer.position.step
    assert [step["rng"] for step in steps] == [CounterRNG(config.seed, number) for number in range(len(steps))]
    assert (len(steps) > 10) == (answers_per_step == 1)


@pytest.mark.parametrize("changes", [{}, {"answers_per_step": 1}, {"candidates": "sampled", "num_negatives": 3}])
@pytest.mark.parametrize("max_horizon", [1, 2, 3, 32])
def test_a_step_looks_ahead_to_one_later_snapshot_of_train_within_the_horizon(monkeypatch, max_horizon, changes):
    facts = random_facts(0, 200)
    facts = facts[facts[:, 3] != 2]  # from snapshot 1 on nothing has horizon 2
    config = tiny_config(epochs=2, patience=2, max_horizon=max_horizon, ahead_share=0.5, **changes)
    trainer, drawn, original = Trainer(config, graph_of(facts)), defaultdict(set), batches.queries_ahead
    later = {time: [at for at in trainer.times if time < at < time + max_horizon] for time in trainer.times}

    def noted(queries, following, *more):
        found = original(queries, following, *more)
        assert [one.time for one in following if one.time < queries.time + max_horizon] == later[queries.time]
        assert {one.time for one in following} <= set(trainer.times)
        assert trainer.history.end <= queries.time
        assert len(found) == bool(later[queries.time])
        for one in found:
            assert one.now == queries.time
            drawn[queries.time].add(one.time)
        return found

    monkeypatch.setattr(batches, "queries_ahead", noted)
    list(trainer.run())
    assert set(drawn) == {time for time, times in later.items() if times}
    assert all(times <= set(later[time]) for time, times in drawn.items())
    assert max_horizon < 32 or any(len(times) > 1 for times in drawn.values())


def test_without_a_share_ahead_training_is_that_of_the_next_snapshot():
    trained = []
    for changes in ({"max_horizon": 1}, {"ahead_share": 0.0}, {}):
        trainer = Trainer(tiny_config(epochs=1, **changes), graph_of(random_facts(0, 200)))
        list(trainer.run())
        trained.append(trainer.model.state_dict())
    next_only, no_share, ahead = trained
    assert all(torch.equal(value, no_share[name]) for name, value in next_only.items())
    slopes = [name for name in ahead if "slope" in name]
    assert len(slopes) == 10
    assert not any(next_only[name].any() for name in slopes)
    assert all(ahead[name].any() for name in slopes)


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


def test_metrics_have_the_mean_loss_of_the_epoch(monkeypatch):
    losses, original = [], optimizer_step.backward_step

    def spy(model, memory, batch, *more):
        loss = original(model, memory, batch, *more)
        losses.append((float(loss), sum(answer[-1] == 1 for one in batch.blocks for answer in answers_of(one))))
        return loss

    monkeypatch.setattr(optimizer_step, "backward_step", spy)
    trainer = Trainer(tiny_config(epochs=1, answers_per_step=5), graph_of(random_facts(0)))
    list(trainer.run())
    answers = sum(count for _, count in losses)
    expected = sum(loss * count for loss, count in losses) / answers
    assert trainer.position.metrics[0]["loss"] == pytest.approx(expected, rel=1e-12)


def with_validation(monkeypatch, scripted, **train):
    """A training whose epochs have these validation MRRs, with the weights after each."""
    values, weights = iter(scripted), []
    trainer = Trainer(tiny_config(**train), graph_of(random_facts(0)))

    def validation(sharded, *arguments, **options):
        weights.append({name: value.clone() for name, value in sharded.model.state_dict().items()})
        return {"mrr": next(values), "hits@1": 0.0, "hits@3": 0.0, "hits@10": 0.0, "count": 1}

    monkeypatch.setattr(trainer_module, "validate", validation)
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
    monkeypatch.setattr(optimizer_step, "backward_step", lambda *arguments: torch.tensor(torch.nan))
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


def test_progress_counts_every_snapshot_and_says_when_to_checkpoint():
    graph = graph_of(random_facts(0))
    trainer = Trainer(tiny_config(epochs=2, patience=2, checkpoint_steps=2), graph)
    events = list(trainer.run())
    train = [progress for progress in events if progress.phase == "train"]
    snapshots = len(graph.times_in("train"))
    assert [(progress.epoch, progress.done) for progress in train] == [
        (epoch, done) for epoch in (1, 2) for done in range(1, snapshots + 1)
    ]
    ended = [progress for progress in events if progress.metrics]
    assert [progress.epoch for progress in ended] == [1, 2]
    assert all(progress.checkpoint for progress in ended)
    # Steps 2 and 4 of the first epoch's five, then 6 and 8 of all ten; the rest are the ends of epochs.
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
