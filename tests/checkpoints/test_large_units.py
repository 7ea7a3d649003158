"""A unit beyond what MindSpore reads as one file: killed while it is saved, resumed bit for bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import pytest

from src.checkpoints.unit import newest_unit
from tests.checkpoints.large_unit import VOCAB_SIZE

ROOT = Path(__file__).parents[2]
TWO_GIB = 2 << 30


def start(folder: Path, emb_init: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.checkpoints.large_unit", str(folder), emb_init]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is not kept: the units take 7 GB."""
    yield tmp_path / "ckpt"
    shutil.rmtree(tmp_path / "ckpt")


@pytest.mark.clusters
@pytest.mark.timeout(900)  # under a minute and a half alone
def test_ten_million_ids_are_saved_killed_and_resumed_bit_for_bit(folder: Path) -> None:
    undisturbed = start(folder, "zeros")
    assert undisturbed.stdout is not None
    lines = []
    for line in undisturbed.stdout:
        lines.append(line)
        if line.startswith("peak"):
            break
    while undisturbed.poll() is None and not any(folder.glob(".w-1_6.part*.writing.ckpt")):
        time.sleep(0.01)
    assert undisturbed.poll() is None
    undisturbed.kill()
    undisturbed.communicate()

    unit = newest_unit(folder, "w")
    assert unit is not None and unit.step == 3
    sizes = [path.stat().st_size for path in unit.files]
    assert sum(sizes) > TWO_GIB and max(sizes) <= (1 << 30) + 10_000
    assert unit.cut["embedding_table"] == (VOCAB_SIZE, 56)
    assert "embedding_table[0:4793490]" in ms.load_checkpoint(str(unit.files[1]))

    resumed = start(folder, "ones")
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0
    begin = next(place for place, line in enumerate(lines) if line.startswith("step 4"))
    *expected, _ = lines[begin:]
    *found, peak = output.splitlines(keepends=True)
    assert found == expected
    # The network, the unit and one table on its way from one to the other.
    assert int(peak.split()[1]) < 3 * sum(sizes)
