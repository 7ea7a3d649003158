"""The producer's parts that need no broker: the files, the pace, the count."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from kafka.errors import KafkaTimeoutError
from tqdm import tqdm

from src.rows.criteo import COLUMNS
from src.stream.produce import Deliveries, ProduceError, _paced, _settle, check_file


def never() -> bool:
    return False


def lines(text: bytes, first: int = 0, rate: float = 0.0) -> list[bytes]:
    return list(_paced(cast(BinaryIO, io.BytesIO(text)), rate, first, never))


def deliveries(sent: int) -> Deliveries:
    made = Deliveries(tqdm(disable=True))
    made.sent = sent
    return made


def test_a_file_that_begins_with_a_row_passes(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("1\t" + "\t".join([""] * 39) + "\n")
    check_file(tmp_path / "rows.tsv")


def test_a_header_is_refused_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("\t".join(COLUMNS) + "\n")
    with pytest.raises(ProduceError, match=r"rows.tsv, line 1: a header row"):
        check_file(tmp_path / "rows.tsv")


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProduceError, match=r"gone.tsv: No such file"):
        check_file(tmp_path / "gone.tsv")
    with pytest.raises(ProduceError, match="directory"):
        check_file(tmp_path)


def test_line_endings_are_no_part_of_a_row_but_empty_last_fields_are() -> None:
    assert lines(b"a\tb\r\nc\t\n\nd") == [b"a\tb", b"c\t", b"", b"d"]


def test_rows_that_were_sent_before_are_left_out() -> None:
    assert lines(b"a\nb\nc\n", first=1) == [b"b", b"c"]
    assert lines(b"a\nb\nc\n", first=3) == []


def test_a_file_that_ends_before_the_rows_that_were_sent_is_another_file() -> None:
    with pytest.raises(ValueError, match="only 3 rows, but 4 were sent"):
        lines(b"a\nb\nc\n", first=4)


def test_rows_are_spread_over_the_time_that_the_rate_gives_them() -> None:
    began = time.monotonic()
    moments = [
        time.monotonic() - began
        for _ in _paced(cast(BinaryIO, io.BytesIO(b"x\n" * 101)), 200.0, 0, never)
    ]
    assert all(moment >= number / 200 - 0.051 for number, moment in enumerate(moments))
    assert moments[-1] < 5.0


def test_a_slow_pace_gives_way_to_a_stop() -> None:
    began = time.monotonic()
    rows = _paced(
        cast(BinaryIO, io.BytesIO(b"x\n" * 9)), 0.01, 0, lambda: time.monotonic() > began + 0.2
    )
    assert len(list(rows)) == 1
    assert time.monotonic() - began < 5.0


def test_nothing_is_complained_of_when_every_row_was_delivered() -> None:
    counts = deliveries(2)
    counts.succeeded(None)
    assert counts.unsettled == 1
    counts.succeeded(None)
    assert (counts.unsettled, counts.complaint()) == (0, "")


def test_the_complaint_counts_the_rows_and_names_the_first_line() -> None:
    counts = deliveries(3)
    counts.succeeded(None)
    counts.went_wrong(1, KafkaTimeoutError("gone"))
    counts.went_wrong(2, KafkaTimeoutError("gone too"))
    assert counts.complaint() == (
        "2 rows were not delivered, the first at line 2: KafkaTimeoutError: gone"
    )


def test_a_row_delivered_after_a_lost_one_is_called_a_hole() -> None:
    counts = deliveries(2)
    counts.went_wrong(0, KafkaTimeoutError("gone"))
    counts.succeeded(None)
    assert "--resume would leave a hole" in counts.complaint()


def test_rows_without_an_answer_are_not_waited_for_long_after_a_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("src.stream.produce.STOP_SETTLE_SECONDS", 0.05)
    counts = deliveries(1)
    began = time.monotonic()
    _settle(counts, lambda: True)
    assert time.monotonic() - began < 5.0
    assert counts.complaint() == "1 rows were not delivered, no answer from the broker"
