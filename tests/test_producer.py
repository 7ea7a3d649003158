"""The flags of producer.py."""

from __future__ import annotations

import pytest

import producer


@pytest.mark.parametrize(
    "flags",
    [
        ["--rate=-1"],
        ["--rate=nan"],
        ["--rate=inf"],
        ["--resume", "--value_format=json"],
        ["--file1=", "--file2="],
        ["--value_format=csv"],
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        producer.parse_args(flags)
    assert caught.value.code == 2


def test_the_documented_defaults() -> None:
    arguments = producer.parse_args([])
    assert (arguments.file1, arguments.file2) == ("./output1.tsv", "./output2.tsv")
    assert (arguments.topic, arguments.bootstrap_servers) == ("python_test1", "localhost:9092")
    assert (arguments.rate, arguments.value_format, arguments.resume) == (0.0, "tsv", False)
