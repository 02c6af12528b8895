"""A report in Chromium: on a phone and on a screen, light and dark, and printed."""

import pytest
from browser import look
from reports import report_data

from gam_kg.inference.report_charts import page_charts
from gam_kg.inference.report_html import write_page
from gam_kg.inference.report_page import report_page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("matplotlib")
    path, data = tmp_path_factory.mktemp("report") / "report.html", report_data()
    write_page(path, report_page(data, page_charts(data)))
    return path


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_a_report_fits_its_window_and_can_be_read(page, width, dark, tmp_path):
    printed = tmp_path / "report.pdf" if width == 1280 and not dark else None
    found = look(page, width=width, dark=dark, pdf=printed)
    assert found["messages"] == []
    assert found["width"] == width
    assert found["scroll_width"] <= width
    assert found["outside"] == []
    assert found["pictures"] >= 12
    assert found["unnamed"] == 0
    assert found["cut"] == []
    assert found["faint"] == []
    assert "Beats the best untrained baseline by 2.0 ± 1.0 MRR" in found["text"].replace("\n", " ")
    assert printed is None or printed.read_bytes().startswith(b"%PDF")
