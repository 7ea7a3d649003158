from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.dictionaries.criteo_file import DataError, read_blocks
from examples.dictionaries.processing import process
from examples.process_data import main, parse_args
from examples.sample.rows import make_rows, write_sample
from src.dictionaries.dictionaries import load_dictionaries
from src.dictionaries.safe_pickle import load_pickle
from src.dictionaries.value_counts import MOST_HELD
from src.features.drift import Profile
from src.rows.criteo import COLUMNS, FIELD_SIZE

ROOT = Path(__file__).resolve().parents[2]


def line(label: str = "0", **fields: str) -> bytes:
    """One wire line; what is not given is missing."""
    given = {"label": label, **fields}
    return "\t".join(given.get(column, "") for column in COLUMNS).encode()


def write(path: Path, *lines: bytes, end: bytes = b"\n") -> Path:
    path.write_bytes(end.join(lines) + end)
    return path


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


@pytest.mark.parametrize("block_bytes", [1, 100, 5000, 1 << 20])
def test_blocks_of_any_size_hold_the_same_rows(tmp_path: Path, block_bytes: int) -> None:
    path = tmp_path / "data.tsv"
    write_sample([path], rows=300)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # the last line may lack its end
    blocks = list(read_blocks(path, block_bytes=block_bytes))
    assert [row for block, _ in blocks for row in block.to_pylist()] == make_rows(
        0, 300
    ).to_pylist()
    assert sum(size for _, size in blocks) == path.stat().st_size


def test_lines_may_end_in_carriage_return_and_line_feed(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", line(C26="a"), line("1", C26="b"), end=b"\r\n")
    [(table, _)] = read_blocks(path)
    assert table["C26"].to_pylist() == ["a", "b"]


def test_a_quote_is_an_ordinary_character_and_only_the_empty_field_is_missing(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "data.tsv", line(C1='"a', C2="NA", C3="null", C4='""'))
    [(table, _)] = read_blocks(path)
    assert table.select(["C1", "C2", "C3", "C4", "C5"]).to_pylist() == [
        {"C1": '"a', "C2": "NA", "C3": "null", "C4": '""', "C5": None}
    ]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (line(I3="x1"), "line 2005: I3: not a 64-bit integer: b'x1'"),
        (line(I3="1.5"), "line 2005: I3: not a 64-bit integer: b'1.5'"),
        (line(I3=" 5"), "line 2005: I3: not a 64-bit integer: b' 5'"),
        (line(I3="0x1F"), "line 2005: I3: not a 64-bit integer: b'0x1F'"),
        (line("00"), "line 2005: label: not 0 or 1: b'00'"),
        (line("2"), "line 2005: label: not 0 or 1: b'2'"),
        (line(""), "line 2005: label: not 0 or 1: b''"),
        (line(C4="?").replace(b"?", b"\xff"), "line 2005: C4: not UTF-8"),
        (b"1\t2", "line 2005: row: 2 fields, expected 40"),
        (b"", "line 2005: row: 1 fields, expected 40"),
        (line() + b"\t", "line 2005: row: 41 fields, expected 40"),
        (line(C1="a\rb"), "line 2005: row: a line break within the row"),
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
@pytest.mark.parametrize("block_bytes", [900, 1 << 24])
def test_a_bad_line_is_named(tmp_path: Path, bad: bytes, named: str, block_bytes: int) -> None:
    path = write(tmp_path / "data.tsv", *[line(C1="a")] * 2004, bad, line(C1="b"))
    with pytest.raises(DataError) as error:
        list(read_blocks(path, block_bytes=block_bytes))
    assert str(error.value).startswith(f"{path}: {named}")
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", b"\xef\xbb\xbf" + line())
    with pytest.raises(DataError, match="line 1: label: not 0 or 1"):
        list(read_blocks(path))


def test_blanks_and_letters_in_categorical_values_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "data.tsv", line(C1=" a x", C2="0x1F", I1="-5"))
    [(table, _)] = read_blocks(path)
    assert table.select(["label", "I1", "C1", "C2"]).to_pylist() == [
        {"label": 0, "I1": -5, "C1": " a x", "C2": "0x1F"}
    ]


def test_a_header_is_refused_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "data.tsv", "\t".join(COLUMNS).encode(), line())
    assert main(["--data", str(path), "--output_dir", str(tmp_path)]) == 1
    assert 'line 1 is a header (its first field is "label")' in caplog.text


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.tsv"
    path.touch()
    with pytest.raises(DataError, match="no rows in"):
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
    "flags", [["--rows", "0"], ["--min_count", "-1"], ["--vocab_size", "38"], ["--nonsense"]]
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
