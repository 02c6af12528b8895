"""The picture of an ablation."""

import pytest

from gam_kg.inference.ablation import Ablation, ablation_figure
from gam_kg.inference.run_comparison import Comparison
from gam_kg.metrics.bootstrap import Difference

PANELS = [("valid", "single_step"), ("valid", "multi_step"), ("test", "single_step"), ("test", "multi_step")]


def ablation(part, lost, seeds):
    """The model without a part, which loses half as much multi-step."""
    full, found = [0.4 + 0.01 * seed for seed in range(seeds)], []
    for split, setting in PANELS:
        difference = -lost if setting == "single_step" else -lost / 2
        without = tuple(mrr + difference for mrr in full)
        interval = Difference(difference, difference - 0.001, difference + 0.001)
        found.append(Comparison(split, setting, "both", 100, tuple(full), without, interval))
    return Ablation(part, 1.0, found)


@pytest.mark.parametrize(("seeds", "legend"), [(1, "1 seed; line"), (2, "mean over 2 seeds; ticks: each seed; line")])
def test_each_panel_says_what_it_compares_to_and_has_a_point_for_each_part(seeds, legend):
    pytest.importorskip("matplotlib")
    figure = ablation_figure(
        [ablation("full", 0.0, seeds), ablation("past_facts", 0.05, seeds), ablation("gate", 0.02, seeds)]
    )
    mean = 100 * (0.4 if seeds == 1 else 0.405)
    assert [axis.get_title() for axis in figure.axes] == [
        f"{split}, {setting.replace('_', '-')}: full model {mean:.2f} %" for split, setting in PANELS
    ]
    assert legend in figure.get_supxlabel()
    for axis, worth in zip(figure.axes, (1, 0.5, 1, 0.5), strict=True):
        points = [line.get_xydata()[0].tolist() for line in axis.lines if line.get_marker() == "o"]
        assert points == [pytest.approx([-5 * worth, 0]), pytest.approx([-2 * worth, 1])]
        ticks = [line for line in axis.lines if line.get_marker() == "|"]
        assert [len(line.get_xydata()) for line in ticks] == [seeds, seeds]
    for axis in figure.axes[::2]:
        assert [label.get_text() for label in axis.get_yticklabels()] == ["no past facts", "no gate"]
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim(), "what is compared has one scale"


def test_a_picture_of_the_full_model_alone_is_empty():
    pytest.importorskip("matplotlib")
    assert [len(axis.get_yticks()) for axis in ablation_figure([ablation("full", 0.0, 1)]).axes] == [0] * 4
