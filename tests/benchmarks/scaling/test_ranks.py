"""What the benchmark of many ranks says on paper follows from the model's sizes."""

from __future__ import annotations

import pytest

from benchmarks.scaling.ranks import (
    Link,
    Measured,
    exchanged_floats,
    fitted_ms,
    layer_floats,
    measured_table,
    paper_table,
    ring_ms,
    table_floats,
)
from src.ranks.exchange import Exchange


def test_layers_are_counted_with_their_biases_and_the_wide_one() -> None:
    assert layer_floats((3, 2, 1)) == (3 * 2 + 2) + (2 * 1 + 1) + 1


@pytest.mark.parametrize("ranks", [2, 64])
def test_what_travels_is_the_buffer_that_the_step_reduces(ranks: int) -> None:
    batch, fields, emb_dim = 100, 39, 80
    shapes = ((layer_floats(),),)
    exchange = Exchange(0, ranks, emb_dim, batch * fields, batch, shapes)
    assert 4 * exchanged_floats(ranks, batch) == exchange.bytes_reduced


def test_whole_tables_hold_every_row_of_the_vocabulary() -> None:
    assert table_floats() == layer_floats() + 1 + 200_000 * 81


def test_a_ring_of_two_sends_the_buffer_once_in_two_rounds() -> None:
    link = Link("", ranks=2, gb_per_second=4.0, latency_us=500.0)
    assert ring_ms(1_000_000, link) == pytest.approx(1.0 + 2 * 0.5)


def test_a_size_between_two_measured_ones_takes_a_time_between_theirs() -> None:
    assert fitted_ms({300: 5.0, 100: 1.0}, 200) == pytest.approx(3.0)


def test_the_measured_table_gives_the_shares_of_a_step_beside_the_times() -> None:
    result = Measured("sparse", 2, 50.0, 4000.0, 2_500_000, 20.0, 19.0, 0.75)
    header, rule, row = measured_table([result])
    assert row == "| sparse | 2 | 50.0 | 4,000 | 10.0 | 20.0 | 19.0 | 40% | 0.75 | 1.5% |"
    assert header.count("|") == rule.count("|") == row.count("|")


def test_the_paper_table_compares_both_ways_for_each_machine() -> None:
    rows = [line.split("|")[2:4] for line in paper_table(100)[2:]]
    ways = [way.strip().split()[0] for way, _ in rows]
    megabytes = [float(size) for _, size in rows]
    assert ways == ["rows", "whole"] * 2
    assert megabytes[1] == megabytes[3] and megabytes[0] < megabytes[1]
