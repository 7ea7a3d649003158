"""The report of one and several runs: what is read, what is drawn, what the page holds."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot as plt

from examples import report
from examples.report import main
from examples.report_page.differences import difference, draw_differences
from examples.report_page.pictures import MAX_POINTS, PANELS, draw
from examples.report_page.reliability import draw_reliability
from examples.report_page.runs import ReportError, Run, read_run, without_undone_steps

PANEL = {panel.name: panel for panel in PANELS}


@pytest.fixture(autouse=True)
def no_traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(report, "configure_logging", lambda: None)
    yield
    assert plt.get_fignums() == [], "a figure is left open"


def line(step: int, **changes: Any) -> dict[str, Any]:
    scores = {
        "rows": step * 100,
        "auc": 0.5 + step / 10_000,
        "log_loss": 0.6 - step / 10_000,
        "normalised_entropy": 0.99,
        "calibration": 1.02,
    }
    return {
        "time": 1.7e9 + step,
        "session": 1,
        "step": step,
        "rows": step * 100,
        "rows_per_second": 1000.0 + step,
        "step_seconds": 0.07,
        "wait_seconds": 0.001,
        "wide_loss": 0.6,
        "deep_loss": 0.65,
        "oov_rate": 0.25,
        "oov_rate_by_column": [0.01 * place for place in range(26)],
        "lag_rows": 5000 - step,
        "lag_seconds": 1.5,
        "window": scores,
        "life": {**scores, "auc": 0.5},
        "since_start": scores,
        "reliability": [{"predicted": 0.1, "click_rate": 0.2, "rows": 10}],
        **changes,
    }


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return path


def curve(panel: str, lines: list[dict[str, Any]], axis: int, number: int = 0) -> list[list[float]]:
    figure = draw(PANEL[panel], [Run("a", lines)])
    assert figure is not None
    found = figure.axes[axis].get_lines()[number]
    plt.close(figure)
    return [np.asarray(data, dtype=float).tolist() for data in found.get_data()]


class Page(HTMLParser):
    """Collects pictures and table cells; fails on anything that is fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: dict[str, bytes] = {}
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        assert tag not in ("script", "link", "iframe")
        self._in_cell = tag == "td"
        if tag == "img":
            kind, content = given["src"].split(",", 1)
            assert kind == "data:image/svg+xml;base64"
            self.pictures[given["alt"]] = base64.b64decode(content)

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells.append(data)
            self._in_cell = False


def test_quantities_are_drawn_over_rows_and_over_minutes() -> None:
    lines = [line(100), line(220)]
    assert curve("auc", lines, axis=0) == [[10_000.0, 22_000.0], [0.51, 0.522]]
    assert curve("auc", lines, axis=1) == [[0.0, 2.0], [0.51, 0.522]]
    assert curve("auc", lines, axis=0, number=1)[1] == [0.5, 0.5]
    assert curve("oov", lines, axis=0)[1] == [25.0, 25.0]


def test_what_a_report_does_not_know_is_a_gap_and_no_zero() -> None:
    lines = [line(1, lag_rows=None), line(2), line(3, lag_rows=None), line(4)]
    assert curve("lag_rows", lines, axis=0)[0] == [200.0, 400.0]
    assert draw(PANEL["lag_rows"], [Run("a", lines[:1])]) is None


def test_steps_that_a_restart_did_again_count_once() -> None:
    reported = [line(step) for step in (100, 200, 300, 150, 250)]
    assert [entry["step"] for entry in without_undone_steps(reported)] == [100, 150, 250]


def test_rotated_files_belong_to_the_run_oldest_first(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", line(5))
    write(tmp_path / "metrics.jsonl.1", line(3), line(4))
    write(tmp_path / "metrics.jsonl.2", line(1), line(2))
    write(tmp_path / "metrics.jsonl.old", line(9))
    run = read_run(tmp_path / "metrics.jsonl")
    assert [entry["step"] for entry in run.lines] == [1, 2, 3, 4, 5]


def test_half_a_line_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "metrics.jsonl", line(1), line(2))
    path.write_text(path.read_text() + '{"step": 3, "ro')
    assert [entry["step"] for entry in read_run(path).lines] == [1, 2]
    assert "line 3 is left out" in caplog.text


def test_page_holds_every_picture_and_the_last_numbers_of_every_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "<one>.jsonl", line(100), line(200))
    two = write(tmp_path / "two.jsonl", line(100), line(300))
    output = tmp_path / "report.html"
    assert main([str(one), str(two), f"--output={output}"]) == 0
    page = Page(output.read_text())
    assert list(page.pictures) == [
        *(panel.title for panel in PANELS),
        "Out of vocabulary by column, last report",
        "Reliability: the newest rows in ten groups by score",
        f"Difference from the first run, {one}",
    ]
    for svg in page.pictures.values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert page.cells[0] == str(one)  # escaped in the page, read back by the parser
    assert page.cells[1:5] == ["20,000", "200", "0.5000", "0.5200"]
    assert page.cells[10:15] == [str(two), "30,000", "300", "0.5000", "0.5300"]
    pngs = sorted(path.name for path in tmp_path.glob("*.png"))
    others = ["oov_by_column", "reliability", "differences"]
    names = [*(panel.name for panel in PANELS), *others]
    assert pngs == sorted(f"report-{name}.png" for name in names)
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.glob("*.png"))
    assert capsys.readouterr().out.splitlines()[0] == str(output)


def test_several_runs_lie_over_each_other_each_named(tmp_path: Path) -> None:
    runs = [Run("a", [line(1), line(2)]), Run("b", [line(1), line(4)])]
    figure = draw(PANEL["lag_rows"], runs)
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    colors = [found.get_color() for found in figure.axes[0].get_lines()]
    assert len(set(colors)) == 2
    plt.close(figure)


def deciles(*rates: float) -> list[dict[str, float]]:
    return [
        {"predicted": 0.1 * place, "click_rate": rate, "rows": 100}
        for place, rate in enumerate(rates, start=1)
    ]


def test_reliability_is_that_of_the_newest_report_that_has_it() -> None:
    old, new = line(1, reliability=deciles(0.5)), line(2, reliability=deciles(0.12, 0.2, 0.27))
    figure = draw_reliability([Run("a", [old, new, line(3, reliability=[])])])
    assert figure is not None
    rates, errors = (
        np.asarray(axis.get_lines()[0].get_xydata(), dtype=float) for axis in figure.axes
    )
    np.testing.assert_allclose(rates, [[0.1, 0.12], [0.2, 0.2], [0.3, 0.27]])
    np.testing.assert_allclose(errors, [[0.1, 0.02], [0.2, 0], [0.3, -0.03]], atol=1e-12)
    bars: Any = figure.axes[1].collections[0]
    np.testing.assert_allclose(
        bars.get_segments()[1], [[0.2, -0.08], [0.2, 0.08]]
    )  # 2 √(0.2 · 0.8 / 100)
    assert not figure.legends
    plt.close(figure)


def test_older_runs_without_reliability_are_left_out_of_its_picture() -> None:
    older = line(1)
    del older["reliability"]
    assert draw_reliability([Run("old", [older])]) is None
    figure = draw_reliability([Run("old", [older]), Run("new", [line(1)])])
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["new"]
    plt.close(figure)


def scored(*points: tuple[int, float | None]) -> list[dict[str, Any]]:
    return [
        line(step, rows=rows, window={"log_loss": loss}, life={"log_loss": loss})
        for step, (rows, loss) in enumerate(points, start=1)
    ]


def test_differences_are_taken_at_equal_rows_within_the_shared_ones() -> None:
    first = Run("a", scored((100, 0.6), (200, 0.5), (300, 0.5)))
    other = Run("b", scored((150, 0.5), (225, None), (250, 0.4), (400, 0.1)))
    rows, ahead = difference(first, other, "window", "log_loss")
    assert rows.tolist() == [150, 200, 250, 300]
    np.testing.assert_allclose(ahead, [-0.05, -0.05, -0.1, -0.2])
    back = difference(other, first, "window", "log_loss")[1]
    np.testing.assert_allclose(back, -ahead)


def test_rows_counted_anew_replace_the_earlier_count() -> None:
    first = Run("a", scored((100, 0.5), (400, 0.5)))
    other = Run("b", scored((100, 0.9), (200, 0.8), (300, 0.7), (150, 0.6), (250, 0.4)))
    rows, ahead = difference(first, other, "life", "log_loss")
    assert rows.tolist() == [100, 150, 250]
    np.testing.assert_allclose(ahead, [0.4, 0.1, -0.1])


def test_runs_that_share_no_rows_have_no_difference() -> None:
    first, other = Run("a", scored((100, 0.6))), Run("b", scored((200, 0.5), (300, 0.5)))
    assert difference(first, other, "life", "log_loss")[0].size == 0
    assert draw_differences([first, other]) is None
    assert draw_differences([first]) is None


def test_difference_of_each_further_run_is_drawn_and_early_ones_do_not_flatten_the_rest() -> None:
    first = Run("a", scored((10, 0.7), (100, 0.5), (1000, 0.5)))
    second = Run("b", scored((10, 5.7), (100, 0.49), (1000, 0.49)))
    figure = draw_differences([first, second, Run("c", first.lines)])
    assert figure is not None
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["b, newest rows", "b, all rows", "c, newest rows", "c, all rows"]
    low, high = figure.axes[0].get_ylim()
    assert -0.02 < low < -0.01 and 0 < high < 0.01
    assert len(figure.axes[0].get_lines()) == 5  # the last is the level 0
    assert len(figure.axes[1].get_lines()) == 1  # these reports have no AUC
    plt.close(figure)


def test_difference_of_long_runs_is_thinned_out_but_ends_where_it_ends() -> None:
    first = Run("a", scored(*((rows, 0.5) for rows in range(1, 5002))))
    rows, _ = difference(first, first, "life", "log_loss")
    assert rows.size <= MAX_POINTS and rows[-1] == 5001


def test_a_long_run_is_thinned_out_but_ends_where_it_ends() -> None:
    lines = [line(step) for step in range(1, 5002)]
    rows, _ = curve("loss", lines, axis=0)
    assert len(rows) <= MAX_POINTS + 1
    assert rows[-1] == 500_100.0


@pytest.mark.parametrize("content", ["", "no json\n", '{"other": 1}\n'])
def test_a_file_without_reports_is_one_line_and_exit_code_1(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    assert main([str(path), f"--output={tmp_path / 'report.html'}"]) == 1
    assert re.search("metrics.jsonl: there are no reports in it$", caplog.messages[-1])
    assert not (tmp_path / "report.html").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="missing.jsonl"):
        read_run(tmp_path / "missing.jsonl")
