"""The flags of producer.py."""

from __future__ import annotations

import pytest

import producer
from src.stream.produce import COMPRESSION_LIBRARIES, ProduceError, check_compression


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


def test_a_missing_library_for_compression_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPRESSION_LIBRARIES, "zstd", (lambda: False, "zstandard"))
    with pytest.raises(ProduceError, match="--compression_type=zstd needs .* package zstandard"):
        check_compression("zstd")
    for kind in ("none", "gzip", "snappy", "lz4"):
        check_compression(kind)
