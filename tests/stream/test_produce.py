"""The producer's count of its deliveries, which needs no broker."""

from __future__ import annotations

import time

import pytest
from kafka.errors import KafkaTimeoutError
from tqdm import tqdm

from src.stream.produce import Deliveries, _settle


def deliveries(sent: int) -> Deliveries:
    made = Deliveries(tqdm(disable=True))
    made.sent = sent
    return made


def test_nothing_is_complained_of_when_every_row_was_delivered() -> None:
    counts = deliveries(2)
    counts.succeeded(None)
    assert counts.unsettled == 1
    counts.succeeded(None)
    assert (counts.unsettled, counts.complaint("")) == (0, "")


def test_the_complaint_counts_the_rows_and_names_the_first_line() -> None:
    counts = deliveries(3)
    counts.succeeded(None)
    counts.went_wrong(1, KafkaTimeoutError("gone"))
    counts.went_wrong(2, KafkaTimeoutError("gone too"))
    assert counts.complaint("") == (
        "2 rows were not delivered, the first at line 2: KafkaTimeoutError: gone"
    )


def test_a_row_delivered_after_a_lost_one_is_called_a_hole() -> None:
    counts = deliveries(2)
    counts.went_wrong(0, KafkaTimeoutError("gone"))
    counts.succeeded(None)
    assert "--resume would leave a hole" in counts.complaint("")


def test_rows_without_an_answer_are_not_waited_for_long_after_a_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("src.stream.produce.STOP_SETTLE_SECONDS", 0.05)
    counts = deliveries(1)
    began = time.monotonic()
    _settle(counts, lambda: True)
    assert time.monotonic() - began < 5.0
    assert counts.complaint("") == "1 rows were not delivered, no answer from the broker"
    assert counts.complaint("why").endswith("no answer from the broker (why)")
