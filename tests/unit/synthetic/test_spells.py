import numpy as np
import pytest
from generated import made_of
from hypothesis import given
from hypothesis import strategies as st

from gam_kg.synthetic.groups import PATTERNS, SyntheticConfig
from gam_kg.synthetic.spells import SpellLaw

ONLY = {pattern: float(pattern == "persistent") for pattern in PATTERNS}
CONFIG = SyntheticConfig(entities=3000, relations=3, facts=90_000, snapshots=120, seed=1, **ONLY)


@given(
    st.integers(2, 40),
    st.floats(1e-6, 0.9),
    st.lists(st.integers(0, 30), min_size=1, max_size=20),
    st.integers(0, 2**32),
)
def test_spells_of_a_series_follow_each_other_from_its_birth_on(mean, density, born, seed):
    born = np.array(born)
    series, start, length = SpellLaw.of(mean, density).draw(born, 30, np.random.default_rng(seed))
    assert (length >= 1).all()
    assert ((start >= born[series]) & (start + length <= 30)).all()
    later = series[1:] > series[:-1]
    assert (later | ((series[1:] == series[:-1]) & (start[1:] >= start[:-1] + length[:-1]))).all()


@given(st.integers(2, 40), st.floats(1e-3, 0.9), st.integers(0, 40))
def test_what_holds_some_snapshots_later_follows_from_what_holds_in_the_next(mean, density, horizon):
    law = SpellLaw.of(mean, density)
    assert law.density == pytest.approx(density)
    # This spell, another, none.
    ends, none = 1 - law.survive, 1 - law.begin
    step = np.array(
        [
            [law.survive, ends * law.begin, ends * none],
            [0, law.survive + ends * law.begin, ends * none],
            [0, law.begin, none],
        ]
    )
    later = np.linalg.matrix_power(step, horizon)
    h = np.array(horizon)
    assert law.same(h) == pytest.approx(later[0, 0])
    assert law.another(h) == pytest.approx(later[0, 1], abs=1e-12)
    assert law.begun(h) == pytest.approx(later[2, 1], abs=1e-12)
    assert law.begun(h) >= law.another(h) - 1e-12


def test_a_fact_that_holds_is_stated_in_every_snapshot_and_lasts_as_long_as_its_relation_says():
    world, groups = made_of(CONFIG)
    weight = np.arange(1, CONFIG.entities + 1) ** (-1 / (CONFIG.exponent - 1))
    twice = ((weight / weight.sum()) ** 2).sum()  # that two draws are the same
    for made, mean in zip(groups, (3, 10, 30), strict=True):
        (facts,), law = made.facts, made.spells
        assert len(facts) == CONFIG.facts // 3
        assert law.survive == pytest.approx(1 - 1 / mean)
        stated = np.full((CONFIG.entities, CONFIG.snapshots), -1)
        stated[facts.subject, facts.time] = facts.object
        assert (stated >= 0).sum() == len(facts)  # one in each snapshot at most
        # A spell that ends may be followed at once by one that happens to have the same object.
        stays = law.survive + (1 - law.survive) * law.begin * twice
        lasted = stated >= 0
        for horizon in range(1, 20):
            lasted[:, -horizon:] = False
            lasted[:, :-horizon] &= stated[:, horizon:] == stated[:, :-horizon]
            begun = (stated[:, :-horizon] >= 0).sum()
            # Facts of the same spell last together.
            error = (stays**horizon * (1 - stays**horizon) * 2 * mean / begun) ** 0.5
            assert lasted.sum() / begun == pytest.approx(stays**horizon, abs=4 * error), (mean, horizon)
        present = world.born[made.subjects]
        series = stated[made.subjects]
        old = series[present == 0]
        assert (old >= 0).mean() == pytest.approx(law.density, abs=4 * (mean * 2 / old.size) ** 0.5)
        assert (series[np.arange(CONFIG.snapshots) < present[:, None]] < 0).all()


def test_spells_without_a_gap_occur_and_gaps_are_as_likely_to_end_as_the_law_says():
    for made in made_of(CONFIG)[1]:
        (facts,), law = made.facts, made.spells
        stated = np.full((CONFIG.entities, CONFIG.snapshots), -1)
        stated[facts.subject, facts.time] = facts.object
        stated = stated[made.subjects[made.born == 0]]
        idle = stated[:, :-1] < 0
        begins = (stated[:, 1:] >= 0)[idle].mean()
        assert begins == pytest.approx(law.begin, abs=4 * (law.begin / idle.sum()) ** 0.5)
        changes = ((stated[:, 1:] >= 0) & (stated[:, 1:] != stated[:, :-1]))[~idle].mean()
        assert 0 < changes < (1 - law.survive) * law.begin * 1.2
