"""A probe is learnt when an answer is past its offset and its score has moved, and not before."""

from __future__ import annotations

from examples.live.client import Answer
from examples.live.freshness import freshness_of
from examples.live.probes import LOGIT_MARGIN, Probe, Probes
from src.rows.parsing import parse_messages


def answer(logits: list[float], offset: int, received_at: float = 5.0, version: int = 7) -> Answer:
    return Answer(logits, version, {0: offset}, 0, received_at)


def one_probe() -> tuple[Probes, Probe]:
    probes = Probes("run")
    probes.new(1.0)
    probe = probes.new(1.0)
    assert probe.is_click
    probes.acknowledged(probe, 0, 40)
    return probes, probe


def test_a_probe_is_a_good_row() -> None:
    rows = parse_messages([Probes("run").control.encode()])
    assert len(rows.index) == 1 and not rows.bad


def test_an_answer_before_the_probes_offset_shows_nothing() -> None:
    probes, probe = one_probe()
    probes.judge([probe], answer([0.0, 9.0], offset=40))
    assert probe.passed_at is None and probe.learnt_at is None
    assert probes.waiting(10) == [probe]


def test_a_score_like_that_of_an_unseen_row_is_not_learnt() -> None:
    probes, probe = one_probe()
    probes.judge([probe], answer([0.5, 0.5 + LOGIT_MARGIN / 2], offset=41))
    assert probe.passed_at == 5.0
    assert probes.waiting(10) == [probe]
    probes.judge([probe], answer([0.5, 0.5 + 2 * LOGIT_MARGIN], offset=60, received_at=6.0))
    assert (probe.passed_at, probe.learnt_at, probe.version) == (5.0, 6.0, 7)
    assert probes.waiting(10) == []


def test_a_probe_that_was_not_clicked_must_score_lower() -> None:
    probes = Probes("run")
    probe = probes.new(1.0)
    assert not probe.is_click and probe.line.startswith("0\t")
    probes.acknowledged(probe, 0, 40)
    probes.judge([probe], answer([0.5, 0.5 + 2 * LOGIT_MARGIN], offset=41))
    assert probes.waiting(10) == [probe]
    probes.judge([probe], answer([0.5, 0.5 - 2 * LOGIT_MARGIN], offset=41))
    assert probes.waiting(10) == []


def test_percentiles_are_over_the_learnt_probes_and_the_others_are_counted() -> None:
    probes = Probes("run")
    for number in range(101):
        probe = probes.new(100.0)
        probes.acknowledged(probe, 0, number)
        probe.learnt_at = 100.0 + number / 100
    probes.acknowledged(probes.new(100.0), 0, 101)
    probes.new(100.0)  # the broker has not taken it
    found = freshness_of(probes.all)
    assert (found.probes, found.unlearnt) == (102, 1)
    assert {name: round(value, 6) for name, value in found.seconds.items()} == {
        "p50_s": 0.5,
        "p95_s": 0.95,
        "p99_s": 0.99,
        "max_s": 1.0,
    }
    assert "p50 0.50 s, p99 0.99 s over 101 probes, 1 not seen" in found.described
