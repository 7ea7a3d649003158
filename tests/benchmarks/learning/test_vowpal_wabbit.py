"""What Vowpal Wabbit is given."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from benchmarks.learning.linear_learner import vowpal_wabbit_python
from benchmarks.learning.scores import PEERS
from benchmarks.learning.vowpal_wabbit import COMMON_FLAGS, DENSE_SIZE, FLAGS, bucket, example
from src.features.column_functions import bucket_dense_column
from src.rows import criteo

LINE = "1\t" + "\t".join(["-2", "", "300", *["7"] * 10, *["0a1b2c3d"] * 25, ""]) + "\n"


def test_the_buckets_are_those_of_our_features() -> None:
    numbers = np.concatenate([np.arange(-3, 100_000), 2 ** np.arange(17, 40)])
    ours = bucket_dense_column(np.append(numbers, np.nan).astype(np.float64))
    assert [*map(bucket, map(str, numbers)), bucket("")] == ours.tolist()


def test_the_dense_columns_come_first() -> None:
    assert DENSE_SIZE == criteo.DENSE_SIZE


def test_every_peer_has_flags() -> None:
    assert FLAGS.keys() == PEERS.keys()


def test_a_row_has_a_feature_for_each_field() -> None:
    label, fields = example(LINE, in_buckets=False).split(" | ")
    names = fields.split(" ")
    assert label == "1"
    assert [*names[:4], names[13], names[38]] == [
        "0_-2",
        "1_",
        "2_300",
        "3_7",
        "13_0a1b2c3d",
        "38_",
    ]
    assert len(names) == 39


def test_dense_fields_come_in_buckets_if_asked_for() -> None:
    label, fields = example("0" + LINE[1:], in_buckets=True).split(" | ")
    names = fields.split(" ")
    assert label == "-1"
    assert [*names[:4], names[13], names[38]] == [
        "0_1",
        "1_0",
        "2_24",
        "3_10",
        "13_0a1b2c3d",
        "38_",
    ]
    assert len(names) == 39


@pytest.mark.slow
def test_a_row_of_the_peer_with_pairs_has_741_pairs_39_squares_39_fields_and_a_constant() -> None:
    script = f"""
from vowpalwabbit import Workspace
workspace = Workspace({f"{COMMON_FLAGS} {FLAGS['vowpal_wabbit_pairs']} --audit"!r})
parsed = workspace.example({example(LINE, in_buckets=True)!r})
workspace.predict(parsed)
workspace.finish_example(parsed)
workspace.finish()
"""
    command = [str(vowpal_wabbit_python()), "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [feature.split(":")[0] for feature in done.stdout.split() if feature.count(":") >= 3]
    pairs = [name.split("*") for name in names if "*" in name]
    places = [tuple(int(half.split("_")[0]) for half in pair) for pair in pairs]
    squares = [place for place in places if place[0] == place[1]]
    assert len({tuple(sorted(place)) for place in places}) == len(places) == 741 + 39
    assert len(squares) == 39
    assert len(names) - len(pairs) == 39 + 1
