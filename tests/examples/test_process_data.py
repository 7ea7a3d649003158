from __future__ import annotations

import gzip
import logging
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pyarrow as pa
import pytest

from examples.dictionaries.criteo_file import read_blocks
from examples.dictionaries.processing import process
from examples.process_data import main, parse_args
from examples.sample.rows import make_rows, write_sample
from src.dictionaries.dictionaries import load_dictionaries
from src.dictionaries.safe_pickle import load_pickle
from src.dictionaries.value_counts import MOST_HELD
from src.features.drift import Profile
from src.rows.bad_rows import BadRowGuard
from src.rows.criteo import COLUMNS, FIELD_SIZE
from src.rows.opened_file import RowFileError, open_rows
from src.rows.parsing import parse_messages
from tests.rows.messages import NASTY_NUMBERS, NASTY_TEXTS, with_field
from tests.rows.test_compression import zstd

ROOT = Path(__file__).resolve().parents[2]


def line(label: str = "0", **fields: str) -> bytes:
    """One wire line; what is not given is missing."""
    given = {"label": label, **fields}
    return "\t".join(given.get(column, "") for column in COLUMNS).encode()


def write(path: Path, *lines: bytes, end: bytes = b"\n") -> Path:
    path.write_bytes(end.join(lines) + end)
    return path


def tables(path: Path, allowed: float = 1.0, block_rows: int = 1 << 16) -> list[pa.Table]:
    with open_rows(path) as file:
        guard = BadRowGuard(allowed)
        return [table for table, _ in read_blocks(file, guard, block_rows=block_rows)]


def test_the_files_of_a_hand_computed_example(tmp_path: Path) -> None:
    lines = [line(I1="7", I2="-2", C1="often")] * 7 + [line("1", I1="3", C1="seldom")] * 6
    made = process([write(tmp_path / "data.tsv", *lines)], tmp_path / "out")
    assert made.rows == 13
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "all_val_max_dict.pkl",
        "all_val_min_dict.pkl",
        "cat2id_dict.pkl",
        "data_profile.json",
    ]
    loaded = load_dictionaries(made.max_dict, made.min_dict, made.map_dict, vocab_size=40)
    assert (loaded.max_by_column["I1"], loaded.min_by_column["I1"]) == (7, 0)
    assert (loaded.max_by_column["I2"], loaded.min_by_column["I2"]) == (0, -2)
    assert list(loaded.id_by_token.items())[FIELD_SIZE:] == [("C1_often", 39)]
    assert loaded.fingerprint == made.dictionaries.fingerprint
    profile = Profile.load(made.profile)
    assert profile.rows == 13
    assert profile.label_rate == pytest.approx(6 / 13)
    assert profile.oov_rates == pytest.approx((6 / 13, *[1.0] * 25))


def test_more_values_than_memory_holds_are_all_counted_and_leave_no_file_behind(
    tmp_path: Path,
) -> None:
    values = [f"{number:08x}" for number in range(MOST_HELD + 10)]
    lines = [line(C1=value) for value in values] + [line(C1=value) for value in values[5:]]
    path = write(tmp_path / "data.tsv", *lines)
    made = process([path], tmp_path / "out", min_count=1)
    assert list(made.dictionaries.id_by_token)[FIELD_SIZE:] == [f"C1_{v}" for v in values[5:]]
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_several_files_count_together_up_to_the_row_limit(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.tsv", *[line(C1="a")] * 5),
        write(tmp_path / "b.tsv", *[line(C1="a")] * 4, b"no row"),
    ]
    made = process(paths, tmp_path, min_count=6, rows=7)
    assert made.rows == 7
    assert list(made.dictionaries.id_by_token.items())[FIELD_SIZE:] == [("C1_a", 39)]
    fewer = process(paths, tmp_path, min_count=6, rows=6)
    assert len(fewer.dictionaries.id_by_token) == FIELD_SIZE


@pytest.mark.parametrize("block_rows", [1, 7, 300, 1 << 16])
def test_blocks_of_any_size_hold_the_same_rows(tmp_path: Path, block_rows: int) -> None:
    path = tmp_path / "data.tsv"
    write_sample([path], rows=300)
    blocks = tables(path, block_rows=block_rows)
    found = [row for block in blocks for row in block.to_pylist()]
    assert found == make_rows(0, 300).to_pylist()


def test_lines_may_end_in_carriage_return_and_line_feed(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", line(C26="a"), line("1", C26="b"), end=b"\r\n")
    [table] = tables(path)
    assert table["C26"].to_pylist() == ["a", "b"]


def test_a_quote_is_an_ordinary_character_and_only_the_empty_field_is_missing(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "data.tsv", line(C1='"a', C2="NA", C3="null", C4='""'))
    [table] = tables(path)
    assert table.select(["C1", "C2", "C3", "C4", "C5"]).to_pylist() == [
        {"C1": '"a', "C2": "NA", "C3": "null", "C4": '""', "C5": None}
    ]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (line(I3="x1"), "2005, I3: not a 64-bit integer: b'x1'"),
        (line(I3="1.5"), "2005, I3: not a 64-bit integer: b'1.5'"),
        (line(I3=" 5"), "2005, I3: not a 64-bit integer: b' 5'"),
        (line(I3="0x1F"), "2005, I3: not a 64-bit integer: b'0x1F'"),
        (line("00"), "2005, label: not 0 or 1: b'00'"),
        (line("2"), "2005, label: not 0 or 1: b'2'"),
        (line(""), "2005, label: not 0 or 1: b''"),
        (line(C4="?").replace(b"?", b"\xff"), "2005, C4: not UTF-8"),
        (b"1\t2", "2005, row: 2 fields, expected 40"),
        (b"", "2005, row: 1 fields, expected 40"),
        (line() + b"\t", "2005, row: 41 fields, expected 40"),
        (line(C1="a\rb"), "2005, row: a line break within the row"),
    ],
    ids=[
        "text",
        "fraction",
        "blank",
        "base",
        "zeros",
        "label",
        "no_label",
        "utf8",
        "short",
        "empty",
        "long",
        "return",
    ],
)
@pytest.mark.parametrize("block_rows", [5, 1 << 16])
def test_a_bad_line_is_named_and_left_out(
    tmp_path: Path, bad: bytes, named: str, block_rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "data.tsv", *[line(C1="a")] * 2004, bad, line(C1="b"))
    values = [value for table in tables(path, block_rows=block_rows) for value in table["C1"]]
    assert [str(value) for value in values] == ["a"] * 2004 + ["b"]
    (message,) = caplog.messages
    assert message.startswith(f"bad row: {path}:{named}")
    assert "\n" not in message


def test_too_many_bad_lines_end_it_as_they_end_the_consumer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "data.tsv", *[line(C1="a")] * 20, *[line(I1="x")] * 12, line())
    flags = ["--data", str(path), "--output_dir", str(tmp_path / "out")]
    caplog.set_level(logging.INFO)
    assert main([*flags, "--max_bad_fraction", "0.0012"]) == 0
    assert "21 rows and 12 bad rows" in caplog.text
    assert sum(record.message.startswith("bad row: ") for record in caplog.records) == 10
    assert f"{path}: and 2 more bad rows, by column: {{'I1': 2}}" in caplog.text
    assert main([*flags, "--max_bad_fraction", "0.0011"]) == 1
    assert f"{path}: a broken feed: 12 of the last 32 rows are bad" in caplog.text


def test_consumer_and_dictionaries_take_the_same_lines_for_rows(tmp_path: Path) -> None:
    fields = [*NASTY_NUMBERS, *NASTY_TEXTS, *("１".encode(), b"+1", b"1.0", b"9223372036854775808")]
    lines = [with_field(column, text) for column in ("label", "I2", "C3") for text in fields]
    lines = [text for text in lines if b"\n" not in text and not text.endswith(b"\r")]
    path = write(tmp_path / "data.tsv", line("1", C3="first"), *lines)
    [table] = tables(path)
    wanted = parse_messages(lines)
    assert table["I2"].to_pylist()[1:] == [
        None if value != value else value for value in wanted.dense["I2"].tolist()
    ]
    assert (
        table["C3"].to_pylist()[1:]
        == wanted.categorical["C3"].astype(object).where(wanted.codes[:, 2] >= 0, None).tolist()
    )


@pytest.mark.parametrize("compress", [gzip.compress, zstd, bytes], ids=["gzip", "zstd", "plain"])
def test_a_compressed_file_a_pipe_and_standard_input_give_the_same_dictionaries(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    write_sample([tmp_path / "plain.tsv"], rows=500)
    data = (tmp_path / "plain.tsv").read_bytes()
    wanted = process([tmp_path / "plain.tsv"], tmp_path / "wanted").dictionaries.fingerprint
    (tmp_path / "day_0").write_bytes(compress(data))
    script = [sys.executable, str(ROOT / "examples" / "process_data.py"), "--output_dir=out"]
    for source in ("day_0", "-", "/dev/stdin"):
        command = f"cat day_0 | {shlex.join([*script, '--data', source])}"
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=True
        )
        assert f"fingerprint {wanted:016x}" in done.stderr
        assert "500 rows in" in done.stderr


def test_standard_input_named_twice_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "process_data.py"), "--data", "-", "-"]
    done = subprocess.run(
        command, cwd=tmp_path, input=line() + b"\n", stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == 1
    assert b"standard input: named twice" in done.stderr


def test_rows_may_be_as_long_as_a_line(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    path = write(tmp_path / "data.tsv", line(C1="a"), line(C1=long), line(C2=long), line(C3="b"))
    [table] = tables(path)
    assert table["C1"].to_pylist() == ["a", long, None, None]
    assert table["C3"].to_pylist() == [None, None, None, "b"]


def test_an_absurd_bound_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [line(I1="7"), line(I3=f"{2**63 - 1}"), line(I4=f"{-(2**63)}")]
    process([write(tmp_path / "data.tsv", *lines)], tmp_path)
    assert [message.split(",")[0] for message in caplog.messages] == [
        "I4: its smallest value is -9223372036854775808",
        "I3: its largest value is 9223372036854775808",
    ]


def test_a_file_cut_off_within_its_compressed_data_gives_no_dictionaries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "day_0.gz"
    path.write_bytes(gzip.compress(b"".join(line(C1=f"{n}") + b"\n" for n in range(999)))[:-20])
    assert main(["--data", str(path), "--output_dir", str(tmp_path / "out")]) == 1
    assert f"{path}: the gzip data end too early" in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_byte_order_mark_before_the_first_row_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", b"\xef\xbb\xbf" + line("1"), line())
    [table] = tables(path)
    assert table["label"].to_pylist() == [1, 0]


def test_blanks_and_letters_in_categorical_values_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", line(C1=" a x", C2="0x1F", I1="-5"))
    [table] = tables(path)
    assert table.select(["label", "I1", "C1", "C2"]).to_pylist() == [
        {"label": 0, "I1": -5, "C1": " a x", "C2": "0x1F"}
    ]


def test_a_header_is_refused_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "data.tsv", "\t".join(COLUMNS).encode(), line())
    assert main(["--data", str(path), "--output_dir", str(tmp_path)]) == 1
    assert "line 1: a header ('label, I1', ...)" in caplog.text


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.tsv"
    path.touch()
    with pytest.raises(RowFileError, match="no rows in"):
        process([path], tmp_path)


def test_too_many_values_are_refused_and_nothing_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "data.tsv", *[line(C1="a", C2="b")] * 2, line(C2="b"))
    flags = ["--data", str(path), "--output_dir", str(tmp_path / "out"), "--min_count", "1"]
    assert main([*flags, "--vocab_size", "40"]) == 1
    assert "41 ids are needed" in caplog.text
    assert not (tmp_path / "out").exists()
    assert main([*flags, "--vocab_size", "40", "--keep_most_frequent"]) == 0
    kept = load_pickle(tmp_path / "out" / "cat2id_dict.pkl")
    assert list(kept)[39:] == ["C2_b"]


def test_a_missing_file_is_one_line_and_exit_code_1(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["--data", str(tmp_path / "nowhere.tsv")]) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "nowhere.tsv" in caplog.text


@pytest.mark.parametrize(
    "flags",
    [
        ["--rows", "0"],
        ["--min_count", "-1"],
        ["--vocab_size", "38"],
        ["--nonsense"],
        ["--max_bad_fraction", "1.1"],
        ["--max_bad_fraction", "x"],
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        parse_args(["--data", "x", *flags])
    assert error.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_the_script_runs_from_any_folder(tmp_path: Path) -> None:
    write(tmp_path / "data.tsv", line(C1="a"))
    script = ROOT / "examples" / "process_data.py"
    command = [sys.executable, str(script), "--data", "data.tsv"]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 rows in" in done.stderr
    assert (tmp_path / "cat2id_dict.pkl").exists()
