from collections import Counter

import numpy as np
import pytest
from generated import SMALL, made_of, replace, rows_of
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from gam_kg.config_file import validated
from gam_kg.errors import ConfigError
from gam_kg.synthetic.generator import FACTS, World
from gam_kg.synthetic.groups import PATTERNS, SyntheticConfig, plan_groups
from gam_kg.synthetic.single_step import object_reciprocals, subject_reciprocals

CHAINED = {pattern: 0 for pattern in PATTERNS if pattern != "chained"}
LARGE = SyntheticConfig(entities=5000, relations=13, facts=100_000, snapshots=80)


def share_of_facts(config, pattern):
    rows, names = rows_of(config)
    return np.isin(rows[:, 1], [number for number, name in enumerate(names) if name.startswith(pattern)]).mean()


def test_sizes_and_shares_are_as_configured():
    for config in (SMALL, LARGE):
        rows, names = rows_of(config)
        assert len(rows) == config.facts
        assert len(set(names)) == len(np.unique(rows[:, 1])) == config.relations
        assert set(rows[:, 3]) == set(range(config.snapshots))
        assert len(np.unique(rows[:, [0, 2]])) >= 0.98 * config.entities
        for pattern, share in config.shares.items():
            assert share_of_facts(config, pattern) == pytest.approx(share, abs=1 / config.facts)
    assert (
        share_of_facts(replace(SMALL, recurrent=3, persistent=0, periodic=0, chained=0, random=1), "recurrent") == 0.75
    )


def test_a_group_is_the_same_whatever_else_is_made_and_another_seed_makes_another():
    for group in plan_groups(SMALL)[::3]:
        alone, among = World(SMALL).generate(group), made_of(SMALL)[1][group.index]
        other = World(replace(SMALL, seed=4)).generate(group)
        for facts, same, different in zip(alone.facts, among.facts, other.facts, strict=True):
            assert facts.table().equals(same.table())
            assert facts.table().schema == FACTS
            assert not facts.table().equals(different.table())


@given(
    st.fixed_dictionaries(
        {
            "entities": st.integers(2, 40),
            "relations": st.integers(1, 12),
            "facts": st.integers(10, 600),
            "snapshots": st.integers(4, 30),
            "seed": st.integers(0, 1000),
            "noise": st.sampled_from([0.0, 0.2, 0.5]),
            "exponent": st.sampled_from([1.5, 2.2, 10.0]),
            "newcomers": st.sampled_from([0.0, 0.3, 0.5]),
            **{pattern: st.sampled_from([0.0, 0.2, 1.0]) for pattern in PATTERNS},
        }
    )
)
@settings(max_examples=150)
def test_no_fact_comes_twice_and_none_is_missing(values):
    try:
        config = validated(SyntheticConfig, values, "drawn")
    except ConfigError:
        reject()
    rows, names = rows_of(config)
    assert len(np.unique(rows, axis=0)) == len(rows) == config.facts
    assert len(names) == config.relations
    world, groups = made_of(config)
    assert (world.born[rows[:, [0, 2]]] <= rows[:, 3:]).all()
    assert ((rows[:, 3] >= 0) & (rows[:, 3] < config.snapshots)).all()
    for made in groups:
        for place in range(len(made.facts)):
            for reciprocals in (object_reciprocals(made, place), subject_reciprocals(made, place)):
                assert ((reciprocals > 0) & (reciprocals <= 1)).all()


@pytest.mark.parametrize("exponent", [1.8, 2.5, 4.0])
def test_degrees_follow_the_power_law(exponent):
    rows, _ = rows_of(replace(LARGE, exponent=exponent))
    degree = np.sort(np.bincount(rows[:, [0, 2]].ravel()))[::-1]
    # The largest degrees fall as a power of their rank, whose exponent is 1 / (exponent - 1); single-handed subjects
    # bend it further down.
    rank = np.arange(3, 60)
    slope, _ = np.polyfit(np.log(rank), np.log(degree[rank - 1]), 1)
    assert -slope == pytest.approx(1 / (exponent - 1), abs=0.2)


def test_newcomers_come_later_and_then_take_part_like_the_others():
    rows, _ = rows_of(LARGE)
    first = np.full(LARGE.entities, LARGE.snapshots)
    np.minimum.at(first, rows[:, [0, 2]].ravel(), np.repeat(rows[:, 3], 2))
    born = made_of(LARGE)[0].born
    newcomers = born > 0
    assert newcomers.mean() == LARGE.newcomers
    assert (first >= born).all()
    assert born[newcomers].min() == LARGE.snapshots // 4
    assert len(np.unique(born)) == 14
    last = rows[rows[:, 3] >= 0.9 * LARGE.snapshots]
    assert newcomers[last[:, 0]].mean() == pytest.approx(LARGE.newcomers, abs=0.03)
    assert newcomers[last[:, 2]].mean() == pytest.approx(LARGE.newcomers, abs=0.06)


def test_which_series_have_facts_depends_only_on_presence():
    """Each present series has as many facts, whatever their objects and however popular its subject."""
    made = max(
        (made for made in made_of(LARGE)[1] if made.group.pattern == "recurrent"), key=lambda made: len(made.born)
    )
    facts = made.facts[0]
    old = made.subjects[made.born == 0]
    count = Counter(facts.subject.tolist())
    num_facts = np.array([count[subject] for subject in old.tolist()])
    expected = LARGE.snapshots * len(facts) / (LARGE.snapshots - made.born).sum()
    assert num_facts.mean() == pytest.approx(expected, rel=0.02)
    chance = expected / LARGE.snapshots
    assert num_facts.var() == pytest.approx(expected * (1 - chance), rel=0.2)
    assert abs(np.corrcoef(old, num_facts)[0, 1]) < 4 / len(old) ** 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"entities": 1}, r"entities: .* greater than or equal to 2 \(found 1\)"),
        ({"snapshots": 3}, r"snapshots: .* greater than or equal to 4 \(found 3\)"),
        ({"seed": -1}, r"seed: .* greater than or equal to 0 \(found -1\)"),
        ({"facts": 6000.5}, r"facts: .* valid integer.* \(found 6000\.5\)"),
        ({"fact": 6000}, r"fact: unknown key; allowed here: entities, relations, facts"),
        ({"chained": -0.1}, r"chained: .* greater than or equal to 0 \(found -0\.1\)"),
        ({"random": float("nan")}, r"random: .* finite number \(found nan\)"),
        (dict.fromkeys(PATTERNS, 0.0), r"recurrent, persistent, periodic, chained, random: at least one"),
        ({"noise": 0.6}, r"noise: .* less than or equal to 0\.5 \(found 0\.6\)"),
        ({"exponent": 1.0}, r"exponent: .* greater than or equal to 1\.5 \(found 1\.0\)"),
        ({"exponent": 11}, r"exponent: .* less than or equal to 10 \(found 11\)"),
        ({"newcomers": 0.7}, r"newcomers: .* less than or equal to 0\.5 \(found 0\.7\)"),
        ({"relations": 5}, r"relations=5: at least 6 for recurrent, persistent, periodic, chained, random"),
        ({"facts": 4999}, r"facts=4999: at least 5000"),
        ({"facts": 10**7}, r"facts=10000000: .* lower it, or raise relations"),
        ({"random": 1e-9}, r"random=1e-09: too small a share"),
        (CHAINED | {"relations": 3}, r"relations=3: an even number"),
        (CHAINED | {"facts": 5001}, r"facts=5001: an even number"),
    ],
)
def test_values_that_cannot_be_are_refused_by_key(values, message):
    with pytest.raises(ConfigError, match=message):
        validated(SyntheticConfig, values, "generate")
