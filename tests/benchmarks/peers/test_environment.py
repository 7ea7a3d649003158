"""What is said where PyTorch can't be had, and which Python it gets."""

from __future__ import annotations

import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from benchmarks.__main__ import main, with_peers
from benchmarks.peers import environment
from benchmarks.peers.environment import (
    PYTHONS,
    PeerError,
    find_uv,
    newer_pythons,
    pytorch_python,
    reason_of,
)
from benchmarks.settings import Settings

SAID_BY_UV = """Using Python 3.12.1 environment at: build/pytorch
error: No solution found when resolving dependencies
  cause: Because there is no version of torch==2.99.1 we can conclude that it is unsatisfiable.

hint: another line
"""
Usage = namedtuple("Usage", "total used free")


@pytest.fixture()
def no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "build" / "pytorch"
    monkeypatch.setattr(environment, "ENVIRONMENT", folder)
    return folder


def test_uv_is_named_where_it_is_missing(
    no_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    with pytest.raises(PeerError, match="uv is missing: run make setup"):
        pytorch_python()


def test_a_full_disk_is_named_before_anything_is_fetched(
    no_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 3 * 2**30))
    with pytest.raises(PeerError, match="needs 10 GB of disk, and 3.0 are free"):
        pytorch_python()
    assert not no_environment.exists()


@pytest.mark.usefixtures("no_environment", "own_logging")
def test_without_the_network_one_line_says_why_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    find_uv()
    if next(newer_pythons(), None) is None:
        pytest.skip(f"this machine has none of Python {', '.join(PYTHONS)}")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    assert main(["--peers", "--stages", "train_step", f"--json={tmp_path / 'x.json'}"]) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    _, line = shown.err.splitlines()  # the first says that it is about to be installed
    assert "can't be had" in line and "was not found in the cache" in line
    assert "leave out --peers" in line
    assert not (tmp_path / "x.json").exists()


def test_only_stages_with_a_peer_ask_for_one() -> None:
    assert with_peers(["features", "end_to_end"], Settings()) == Settings()


def test_uv_is_quoted_by_its_error_and_the_first_cause() -> None:
    assert reason_of(SAID_BY_UV) == (
        "No solution found when resolving dependencies: Because there is no version of "
        "torch==2.99.1 we can conclude that it is unsatisfiable"
    )
    assert reason_of("") == ""


def test_pythons_that_are_found_can_run() -> None:
    for python in newer_pythons():
        said = subprocess.run([python, "--version"], capture_output=True, text=True, check=True)
        assert said.stdout.split()[1].rpartition(".")[0] in PYTHONS
