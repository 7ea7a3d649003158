from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from src.publishing.chain import (
    CURRENT,
    Chain,
    check_link,
    read_chain,
    read_current,
    write_current,
)
from src.publishing.version_format import PublishingError
from tests.publishing.made import make_manifest, write_chain


def test_the_chain_is_what_was_published(tmp_path: Path) -> None:
    manifests = write_chain(tmp_path)
    chain = read_current(tmp_path)
    assert chain == Chain(("10-0123abcd", "20-0123abcd", "30-0123abcd"))
    assert read_chain(tmp_path, chain) == manifests


def test_nothing_is_current_before_the_first_version(tmp_path: Path) -> None:
    assert read_current(tmp_path) is None


def test_a_pin_is_kept(tmp_path: Path) -> None:
    write_current(tmp_path, Chain(("10-0123abcd",), pinned=True))
    assert read_current(tmp_path) == Chain(("10-0123abcd",), pinned=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 2, "chain": ["1-00000000"], "pinned": false}',
        b'{"format": 1, "chain": [], "pinned": false}',
        b'{"format": 1, "chain": ["../1-00000000"], "pinned": false}',
        b'{"format": 1, "chain": [1], "pinned": false}',
        b'{"format": 1, "chain": "1-00000000", "pinned": false}',
        b'{"format": 1, "chain": ["1-00000000"]}',
    ],
)
def test_what_names_no_chain_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CURRENT).write_bytes(content)
    with pytest.raises(PublishingError, match=CURRENT):
        read_current(tmp_path)


def test_a_missing_link_is_named(tmp_path: Path) -> None:
    write_chain(tmp_path)
    with pytest.raises(PublishingError, match="30-0123abcd .*can't follow 10-0123abcd"):
        read_chain(tmp_path, Chain(("10-0123abcd", "30-0123abcd")))
    with pytest.raises(PublishingError, match="20-0123abcd .*can't follow nothing"):
        read_chain(tmp_path, Chain(("20-0123abcd",)))
    with pytest.raises(PublishingError, match="40-0123abcd"):
        read_chain(tmp_path, Chain(("10-0123abcd", "40-0123abcd")))


def test_a_delta_of_another_chain_does_not_follow() -> None:
    full, other = make_manifest(10), make_manifest(11)
    delta = make_manifest(20, full)
    check_link(full, delta)
    check_link(full, other)  # a full version needs nothing before it
    with pytest.raises(PublishingError):
        check_link(other, delta)
    with pytest.raises(PublishingError):
        check_link(full, replace(delta, base="5-0123abcd"))
