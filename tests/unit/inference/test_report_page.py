"""The page of a report: self-contained, whole with hard names, and with less where there is less."""

import re
from html.parser import HTMLParser

import pytest
from reports import HARD_NAMES, metrics_of, report_data

from gam_kg.inference.report_charts import page_charts
from gam_kg.inference.report_html import table
from gam_kg.inference.report_page import report_page


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


def test_only_the_best_of_each_column_is_bold():
    header = ["", "MRR", "Hits@1", "alone"]
    rows = [["a", "1.0", "9.9", "3"], ["b", "10.0", "10.0", ""], ["c", "10.0", "9.0", ""]]
    assert re.findall(r"<strong>(.*?)</strong>", table((header, rows), best=True)) == ["10.0", "10.0", "10.0"]
    assert "<strong>" not in table((header, rows))
