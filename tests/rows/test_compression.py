"""Compressed files become plain bytes, whatever the pieces; damaged ones get one line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from src.rows.compression import MOST_PLAIN_BYTES, CompressionError, plain_pieces

PLAIN = b"".join(b"%d\ta row\n" % number for number in range(20_000))
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"\x00" * 5


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[begin : begin + size] for begin in range(0, len(data), size))


def unpacked(data: bytes, size: int = 1 << 18) -> bytes:
    return b"".join(plain_pieces(pieces(data, size)))


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("day_0.tsv"), data)  # always the same date
    return file.getvalue()


def parquet(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table({"line": data.split(b"\n")}), sink)
    found: bytes = sink.getvalue().to_pybytes()
    return found


@pytest.mark.parametrize("compress", [gzip.compress, zstd, bytes], ids=["gzip", "zstd", "plain"])
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), st.integers(1, 50))
def test_any_cut_into_members_and_pieces_gives_the_same_bytes(
    compress: object, parts: list[bytes], size: int
) -> None:
    assert callable(compress)
    parts[0] = b"1\t" + parts[0]
    data = b"".join(map(compress, parts))
    assert unpacked(data, size) == b"".join(parts)


def test_padding_of_gzip_and_other_frames_of_zstd_are_left_out() -> None:
    assert unpacked(gzip.compress(PLAIN, mtime=0) + b"\x00" * 100) == PLAIN
    frames = [SKIPPABLE_FRAME, zstd(PLAIN), SKIPPABLE_FRAME, zstd(b"1\n"), SKIPPABLE_FRAME]
    assert unpacked(b"".join(frames), 1000) == PLAIN + b"1\n"


def test_nothing_compressed_is_nothing() -> None:
    assert [unpacked(data) for data in (b"", gzip.compress(b"", mtime=0), zstd(b""))] == [b""] * 3


@pytest.mark.parametrize("compress", [gzip.compress, zstd], ids=["gzip", "zstd"])
@pytest.mark.parametrize("size", [7, 1 << 18])
def test_data_that_end_too_early_are_named(compress: object, size: int) -> None:
    assert callable(compress)
    whole = compress(PLAIN)
    for end in (9, len(whole) // 2, len(whole) - 1):
        with pytest.raises(CompressionError, match="end too early: cut off, or not yet complete"):
            unpacked(whole[:end], size)


@pytest.mark.parametrize("compress", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_damaged_data_are_named(compress: object) -> None:
    assert callable(compress)
    whole = bytearray(compress(PLAIN))
    middle = len(whole) // 2
    whole[middle : middle + 8] = bytes(byte ^ 0xFF for byte in whole[middle : middle + 8])
    with pytest.raises(CompressionError, match="data are damaged"):
        unpacked(bytes(whole))
    with pytest.raises(CompressionError, match="data are damaged"):
        unpacked(compress(PLAIN) + b"something else")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bz2.compress(PLAIN), "a bzip2 file"),
        (lzma.compress(PLAIN), "an xz file"),
        (zipped(PLAIN), "a zip file"),
        (parquet(PLAIN), "a parquet file"),
        (b"\x04\x22\x4d\x18" + PLAIN, "an lz4 file"),
        (gzip.compress(gzip.compress(PLAIN, mtime=0), mtime=0), "compressed twice"),
        (gzip.compress(zstd(PLAIN), mtime=0), "compressed twice"),
        (gzip.compress(parquet(PLAIN), mtime=0), "a parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_another_format_is_named_and_what_to_do(data: bytes, said: str) -> None:
    with pytest.raises(CompressionError, match=said) as refused:
        unpacked(data)
    assert ":" in str(refused.value)


@pytest.mark.parametrize("compress", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_pieces_stay_small_however_well_the_data_were_compressed(compress: object) -> None:
    assert callable(compress)
    sizes = [len(piece) for piece in plain_pieces([compress(bytes(64 << 20))])]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 32 * MOST_PLAIN_BYTES
