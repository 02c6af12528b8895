"""The optimum at each horizon, on worlds large enough for counting to be tried on them."""

import numpy as np
import pytest
from generated import SMALL, made_of, replace, rows_of
from graphs import graph_of, snapshots_of

from gam_kg.config import HistoryConfig
from gam_kg.history.index import HistoryIndex
from gam_kg.metrics.all_baselines import build_baselines
from gam_kg.synthetic import multi_step, single_step, two_steps
from gam_kg.synthetic.groups import PATTERNS, SyntheticConfig
from gam_kg.synthetic.multi_step import Cut
from gam_kg.synthetic.optimum import Optimum
from gam_kg.training.evaluate import rank_split, roll

CONFIGS = {
    "all": SMALL,
    "without noise": replace(SMALL, noise=0.0, seed=5),
    "crowded": SyntheticConfig(entities=12, relations=9, facts=700, snapshots=60, noise=0.4, exponent=1.5, newcomers=0),
    "few snapshots": SyntheticConfig(entities=60, relations=16, facts=320, snapshots=8, newcomers=0.5),
}


def cuts_of(config, start):
    return [Cut(made, start, config.noise, config.snapshots) for made in made_of(config)[1]]


def optimum_after(config, start):
    found = Optimum.empty(config.snapshots)
    for cut in cuts_of(config, start):
        found = found.merge(Optimum.after(cut))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_at_horizon_one_it_is_the_single_step_optimum_of_the_same_facts(name):
    config = CONFIGS[name]
    for start in range(1, config.snapshots):
        for cut in cuts_of(config, start):
            for index, of in enumerate((multi_step, two_steps)[: len(cut.generated.facts)]):
                time = cut.generated.facts[index].time
                seen = time[(time >= start) & (time < cut.stop)] == start
                for direction in ("object_reciprocals", "subject_reciprocals"):
                    found = getattr(of, direction)(cut)
                    assert ((found > 0) & (found <= 1)).all()
                    expected = getattr(single_step, direction)(cut.generated, index)[time == start]
                    np.testing.assert_allclose(found[seen], expected, rtol=1e-12, err_msg=cut.generated.group.pattern)


def test_every_fact_before_the_next_arrival_has_a_figure_and_no_other():
    born = made_of(SMALL)[0].born
    single = Optimum.empty(SMALL.snapshots)
    for made in made_of(SMALL)[1]:
        single = single.merge(Optimum.of(made, SMALL.snapshots))
    start = int(born.max())  # nobody comes later
    assert (optimum_after(SMALL, start).num_facts[start:] == single.num_facts[start:]).all()
    assert (optimum_after(SMALL, start).num_facts[:start] == 0).all()
    for cut in cuts_of(SMALL, start - 5):
        expected = start if (cut.generated.born == start).any() or cut.generated.group.pattern != "chained" else 50
        assert cut.stop == expected  # subjects of a chain are also its objects, and others do not matter
        assert (Optimum.after(cut).num_facts[cut.stop :] == 0).all()


def test_what_lasts_is_known_further_ahead_and_no_pattern_is_known_better_than_at_once():
    config = SyntheticConfig(entities=400, relations=13, facts=40_000, snapshots=80, seed=2)
    optimum, start = optimum_after(config, 68), 68
    near, far = optimum.compute(start, start + 2), optimum.compute(start + 6, config.snapshots)
    for role in set(near) - {"all"}:
        error = near[role]["both_error"] + far[role]["both_error"]
        assert far[role]["both"] < near[role]["both"] + 3 * error, role
    for role in ("persistent", "periodic", "chained_follow"):
        assert far[role]["both"] < near[role]["both"] - 3 * (near[role]["both_error"] + far[role]["both_error"]), role
    assert far["recurrent"]["object"] > far["persistent"]["object"] > far["random"]["object"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_counting_predictor_is_better_at_any_horizon(pattern):
    shares = {name: float(name == pattern) for name in PATTERNS}
    config = SyntheticConfig(entities=150, relations=6, facts=6000, snapshots=60, **shares)
    rows, names = rows_of(config)
    start = 51  # the last arrival
    sizes = {"num_entities": config.entities, "num_relations": len(names)}
    graph = graph_of(rows, valid_start=start - 3, test_start=start, **sizes)
    history = HistoryIndex(graph, HistoryConfig())
    baselines = build_baselines(history)
    roll(baselines.values(), history, snapshots_of(graph, range(start)))
    test = snapshots_of(graph, range(start, config.snapshots))
    found = rank_split(baselines, history, test, partition=graph.partition, now=start)
    optimum, gap = optimum_after(config, start), []
    for low, high in ((1, 1), (2, 2), (3, 5), (6, 9)):
        here = (found.time >= start + low - 1) & (found.time < start + high)
        best = optimum.compute(start + low - 1, start + high)["all"]
        assert here.sum() == 2 * best["facts"] > 0
        for direction, chosen in (("object", found.relation < len(names)), ("subject", found.relation >= len(names))):
            gains = max((1 / ranks[here & chosen] for ranks in found.time_aware.values()), key=np.mean)
            error = gains.std() / len(gains) ** 0.5 + best[f"{direction}_error"]
            assert gains.mean() < best[direction] + 2 * error, (direction, low)
            gap.append(gains.mean() / best[direction])
    # But it is not far off, so it is no idle bound.
    assert np.mean(gap) > 0.5
