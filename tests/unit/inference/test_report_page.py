"""The page of a report: self-contained, whole with hard names, and with less where there is less."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from reports import BEST, HARD_NAMES, OTHER, metrics_of, report_data

from gam_kg.inference.charts import draw_over_time, smoothed
from gam_kg.inference.report_charts import page_charts
from gam_kg.inference.report_data import curves
from gam_kg.inference.report_examples import MOST_REPLAYED, no_examples
from gam_kg.inference.report_html import table
from gam_kg.inference.report_page import report_page
from gam_kg.schemas import MODEL


class Page(HTMLParser):
    """The tags of a page with their attributes, its ids, what it refers to, and its texts."""

    VOID = ("meta", "link", "wbr", "img", "br")

    def __init__(self, html):
        super().__init__()
        self.ids, self.refers, self.tags, self.texts, self.open = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.refers.append(value)
            if name in ("style", "clip-path") and value:
                self.refers += re.findall(r"url\((.*?)\)", value)
            if name == "popovertarget":
                self.refers.append(f"#{value}")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.remove(tag) if tag in self.open else None

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def html():
    pytest.importorskip("matplotlib")
    data = report_data()
    return report_page(data, page_charts(data))


def test_a_page_needs_nothing_but_itself(html):
    page = Page(html)
    assert page.open == []
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    inside = {f"#{one}" for one in page.ids}
    assert {one for one in page.refers if one != "data:,"} <= inside
    assert len(page.refers) > 100
    assert not re.search(r"https?:|@import|url\((?!#)", html)


def test_names_are_text(html):
    assert "<script" not in html
    assert not set(html) & set("\x1b\u202e")
    shown = "".join(Page(html).texts)
    for name in (HARD_NAMES[0], HARD_NAMES[4], r"\u202eright to left"):
        assert name in shown


def test_a_page_of_many_relations_is_small():
    pytest.importorskip("matplotlib")
    data = report_data(num_relations=1200, num_snapshots=3000)
    assert len(report_page(data, page_charts(data)).encode()) < 2_000_000


def headings(html):
    return re.findall(r"<h2>(.*?)</h2>", html)


EVERY = ["Results", "Relations", "Examples", "Neighbours", "Probabilities", "Data", "Training", "Cost"]


def test_what_there_is_not_has_no_part(html):
    pytest.importorskip("matplotlib")
    assert headings(html) == EVERY
    metrics = metrics_of("valid") | {"baselines": {}}
    del metrics["comparison"]
    del metrics["valid"]["multi_step"]
    del metrics["valid"]["single_step"]["calibration"]
    data = report_data(num_relations=1, num_snapshots=1, metrics=metrics, relations=[], look=None, settings=[])
    for charts in (page_charts(data), {}):
        page = report_page(data, charts)
        assert headings(page) == ["Results", "Data", "Training", "Cost"]
        assert "compared with nothing" in page
        assert "All settings have their defaults." in page


def test_updates_without_baselines_leave_gaps_in_their_curves():
    """The line of the model goes on, and every line has the same snapshots."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    rows = [
        {"timestamp": "2021-01-01", "mrr": 0.3, f"{BEST}_mrr": 0.2, "num_answers": 10},
        {"timestamp": "2021-01-02", "mrr": 0.5, f"{BEST}_mrr": None, "num_answers": 30},
        {"timestamp": "2021-01-03", "mrr": 0.4, f"{BEST}_mrr": 0.1, "num_answers": 20},
    ]
    data = report_data(over_time=rows)
    found, starts = curves(data.metrics, rows)
    assert {len(points) for points in found.values()} == {starts["updates"] + 3}
    assert [mrr for _, mrr, _ in found[MODEL][-3:]] == [0.3, 0.5, 0.4]
    of_best = [mrr for _, mrr, _ in found[BEST][-3:]]
    assert (of_best[0], of_best[2]) == (0.2, 0.1)
    assert math.isnan(of_best[1])
    assert all(math.isnan(mrr) for _, mrr, _ in found[OTHER][-3:])  # which no update has ranked
    assert "over_time" in page_charts(data)
    figure, axes = pyplot.subplots()
    draw_over_time(axes, found, starts)
    heights = {len(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) > 2}
    assert heights == {starts["updates"] + 3}
    pyplot.close(figure)


def test_smoothing_leaves_out_what_is_unknown():
    values, weights = np.array([1.0, np.nan, *[3.0] * 22]), np.arange(1.0, 25.0)
    found = smoothed(values, weights)  # over two values on each side
    assert found[0] == pytest.approx((1 * 1 + 3 * 3) / (1 + 3))
    assert np.isnan(found).tolist() == np.isnan(values).tolist()
    assert found[5:] == pytest.approx(3.0)


def test_a_sample_of_the_answers_is_said_to_be_one(html):
    assert "Every answer of" in html
    data = report_data()
    data.graph["splits"]["test"] = 1000
    page = report_page(data, {})
    assert "Each of 300 of the 2,000 answers of" in page
    assert "Every answer of" not in page


def test_a_number_that_is_none_is_not_the_best():
    rows = [["a", "nan"], ["b", "2.0"], ["c", "1.0"], ["d", "inf"]]
    assert re.findall(r"<strong>(.*?)</strong>", table((["", "MRR"], rows), best=True)) == ["2.0"]


def test_why_there_are_no_examples_is_said():
    ranks = pa.table({"rank": [1.0]})
    assert no_examples(MOST_REPLAYED, ranks) == ""
    assert "more than 250,000 facts" in no_examples(MOST_REPLAYED + 1, ranks)
    assert "single-step ranks" in no_examples(1, ranks.rename_columns(["rank_multi_step"]))


def test_only_the_best_of_each_column_is_bold():
    header = ["", "MRR", "Hits@1", "alone"]
    rows = [["a", "1.0", "9.9", "3"], ["b", "10.0", "10.0", ""], ["c", "10.0", "9.0", ""]]
    assert re.findall(r"<strong>(.*?)</strong>", table((header, rows), best=True)) == ["10.0", "10.0", "10.0"]
    assert "<strong>" not in table((header, rows))
