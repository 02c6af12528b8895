"""Synthetic graphs, generated once for all tests that use them."""

from functools import cache

import numpy as np

from gam_kg.synthetic.generator import World
from gam_kg.synthetic.groups import SyntheticConfig, plan_groups

SMALL = SyntheticConfig(entities=60, relations=13, facts=3000, snapshots=50, noise=0.2, newcomers=0.3, seed=3)


def replace(config, **changes):
    """The settings with changes, validated."""
    return SyntheticConfig(**config.model_dump() | changes)


@cache
def made_of(config):
    world = World(config)
    return world, [world.generate(group) for group in plan_groups(config)]


def rows_of(config):
    """(subject, relation number, object, time) of all facts, and the names of the relations."""
    relations = [facts for made in made_of(config)[1] for facts in made.facts]
    columns = [(f.subject, np.full(len(f), number), f.object, f.time) for number, f in enumerate(relations)]
    return np.concatenate([np.stack(column, 1) for column in columns]), [f.relation for f in relations]
