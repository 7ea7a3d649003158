"""The command line of the dead letters: its lines of JSON, its table, its flags."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.dead_letters import (
    FileError,
    correction_from_json,
    count_table,
    main,
    parse_args,
    read_corrections,
    to_json,
)
from src.dead_letters.dead_letters import DeadLetter
from src.dead_letters.replay import Correction

MOMENT = datetime(2026, 11, 24, 10, 0, 0, tzinfo=timezone.utc)


def dead_letter(value: bytes | None, column: str = "row", reason: str = "bad: b'x'") -> DeadLetter:
    return DeadLetter("clicks", 1, 42, value, column, reason, MOMENT)


@given(st.one_of(st.none(), st.binary(max_size=60), st.text().map(str.encode)))
def test_a_line_gives_back_the_very_bytes(value: bytes | None) -> None:
    line = to_json(dead_letter(value)).encode()
    assert b"\n" not in line
    assert correction_from_json(line) == Correction("clicks:1:42", value)


def test_a_line_says_origin_column_reason_and_time_and_text_as_text() -> None:
    assert json.loads(to_json(dead_letter("1\tä".encode()))) == {
        "origin": "clicks:1:42",
        "column": "row",
        "reason": "bad: b'x'",
        "time": "2026-11-24T10:00:00.000+00:00",
        "value": "1\tä",
    }
    assert json.loads(to_json(dead_letter(b"\xff")))["value_base64"] == "/w=="


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "no JSON object with an origin"),
        (b'{"value": "x"}', "no JSON object with an origin"),
        (b'{"origin": "a:0:1"}', "either a value or a value_base64"),
        (b'{"origin": "a:0:1", "value": "x", "value_base64": ""}', "either a value or"),
        (b'{"origin": "a:0:1", "value": 7}', "no text"),
        (b'{"origin": "a:0:1", "value_base64": null}', "no text"),
        (b'{"origin": "a:0:1", "value_base64": "a"}', "can't be read"),
        (b'{"origin": "a:0:1", "value": "\\ud800"}', "can't be read"),
    ],
)
def test_a_line_that_is_no_correction_is_refused_by_name(line: bytes, reason: str) -> None:
    with pytest.raises(FileError, match=reason):
        correction_from_json(line)


def test_a_file_gives_its_corrections_and_names_the_lines_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(
        to_json(dead_letter(b"x")).encode() + b"\n\n{\n" + to_json(dead_letter(None)).encode()
    )
    corrections, faults = read_corrections(path)
    assert [correction.value for correction in corrections] == [b"x", None]
    assert len(faults) == 1
    assert faults[0].startswith(f"{path}, line 3: not JSON")


def test_table_counts_by_column_and_kind_of_reason_the_most_frequent_first() -> None:
    dead_letters = [
        dead_letter(b"", "I3", "not a 64-bit integer: b'ten'"),
        *[dead_letter(b"", "row", f"{fields} fields, expected 40: b'x'") for fields in (1, 2, 1)],
        dead_letter(b"", "I3", "not a 64-bit integer: b'2: 3'"),
        dead_letter(None, "row", "no value (a tombstone)"),
    ]
    assert count_table(dead_letters) == [
        "rows  column  reason",
        "   2  I3      not a 64-bit integer",
        "   2  row     1 fields, expected 40",
        "   1  row     2 fields, expected 40",
        "   1  row     no value (a tombstone)",
        "   6  all",
    ]


@pytest.mark.parametrize("flags", [[], ["delete"], ["replay"], ["list", "--value_format=csv"]])
def test_flags_that_make_no_sense_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(flags)
    assert caught.value.code == 2


def test_defaults_are_those_of_the_other_scripts() -> None:
    arguments = parse_args(["list"])
    assert (arguments.bootstrap_servers, arguments.topic) == ("localhost:9092", "python_test1")
    assert arguments.value_format == "tsv"


@pytest.mark.usefixtures("own_logging")
def test_a_file_that_is_not_there_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(tmp_path / "none.jsonl")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "none.jsonl: No such file" in said[0]
