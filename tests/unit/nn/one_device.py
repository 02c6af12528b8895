"""Run by test_one_device.py: a step of the model, and ranks, where `gam_kg.distributed` cannot be imported."""

import importlib
import pkgutil
import sys
from types import FunctionType

import torch

TIME = 6
HISTORY = ("index", "layout", "found", "recency", "sampling", "walks")


class Blocked:
    """Finds no modules, and refuses those of `gam_kg.distributed`."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith("gam_kg.distributed"):
            raise ImportError(f"{name} is imported on one device")


def collective(*_, **__):
    raise AssertionError("torch.distributed is used on one device")


def import_all():
    """Import all modules that are for one device."""
    modules = [f"gam_kg.history.{name}" for name in HISTORY]
    for package in ("gam_kg.nn", "gam_kg.metrics"):
        found = pkgutil.iter_modules(importlib.import_module(package).__path__)
        modules += [f"{package}.{module.name}" for module in found if module.name != "pyg"]  # needs torch-geometric
    for name in modules:
        importlib.import_module(name)
    assert {"gam_kg.nn.model", "gam_kg.metrics.baselines"} <= set(modules)


def block_collectives():
    for name, value in list(vars(torch.distributed).items()):
        if type(value) is FunctionType and value.__module__ == "torch.distributed.distributed_c10d":
            setattr(torch.distributed, name, collective)


def step_and_rank():
    """The loss of a step with all gradients, and ranks by the model and the baselines."""
    from columns import joined_of, layout_of
    from graphs import graph_of, history_before, random_facts, tiny_model

    from gam_kg.graph.message_graph import MessageGraph, Window
    from gam_kg.metrics.all_baselines import build_baselines
    from gam_kg.metrics.ranks import rank_answers

    graph = graph_of(random_facts(0, 200), num_entities=12)  # some have no facts
    model = tiny_model(graph)
    history, snapshot = history_before(graph, model.config.history, TIME), graph.snapshot(TIME)
    queries = graph.snapshot(TIME + 1).queries.seen_from(TIME)  # at horizon 1 slopes have no gradients
    window = [MessageGraph.of(graph.snapshot(time), graph.partition) for time in (TIME - 2, TIME - 1)]
    z = model.entity_vectors(model.empty_memory(), Window.of(window))
    layout = layout_of(history, joined_of(history, queries))
    scores = model.scores(z, layout).view(len(queries), graph.num_entities)
    loss = torch.nn.functional.cross_entropy(scores[queries.answer_query], queries.answer)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    rank_answers(scores.detach(), queries)
    for baseline in build_baselines(history).values():
        baseline.observe(snapshot)
        rank_answers(baseline.scores(queries), queries, graph.partition)
    return float(loss)


if __name__ == "__main__":
    sys.meta_path.insert(0, Blocked())
    import_all()
    block_collectives()
    assert step_and_rank() > 0
    assert not [name for name in sys.modules if name.startswith("gam_kg.distributed")]
