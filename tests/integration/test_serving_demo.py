"""The serving demo: rows in, answers out that have learnt from them, and a page that shows it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from benchmarks.freshness.__main__ import main as measure_freshness
from benchmarks.freshness.parts import PARTS
from examples.services.common import ROOT, wait_until
from examples.services.engine_service import EngineService
from src.process.ports import free_port

SECONDS, ROWS_PER_SECOND = 10, 300
ADDRESS = re.compile(r"open (http://127\.0\.0\.1:\d+/)#row=\S+")
SUMMARY = re.compile(
    r"(\d+) rows sent, (\d+) steps trained; "
    r"freshness: p50 ([\d.]+) s, p99 ([\d.]+) s over (\d+) probes; "
    r"requests: (\d+) served, 0 failed"
)
PATIENCE = 200.0


def fetched(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=10) as response:
        content: bytes = response.read()
    return content


def test_the_demo_shows_a_page_and_ends_with_how_fresh_the_answers_were(
    engine: EngineService, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "examples.live"]
    flags = [
        f"--seconds={SECONDS}",
        f"--rows_per_second={ROWS_PER_SECOND}",
        f"--port={free_port()}",
        f"--work_dir={tmp_path / 'demo'}",
    ]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        demo = subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr)
    try:
        assert wait_until(
            lambda: ADDRESS.search(log.read_text()) is not None or demo.poll() is not None,
            PATIENCE,
        )
        found = ADDRESS.search(log.read_text())
        assert found is not None, log.read_text()
        page, status = fetched(found[1]), json.loads(fetched(found[1] + "status"))
        output, _ = demo.communicate(timeout=PATIENCE)
    finally:
        demo.kill()
        demo.wait()
    assert b"Score a row" in page
    assert status["ready"] and status["version"] >= 1
    assert demo.returncode == 0, log.read_text()
    summary = SUMMARY.fullmatch(output.decode().strip())
    assert summary is not None, output
    assert int(summary[1]) >= SECONDS * ROWS_PER_SECOND
    assert int(summary[5]) == SECONDS * 10  # ten probes a second
    assert 0 < float(summary[3]) <= float(summary[4])


@pytest.mark.clusters
def test_freshness_is_measured_at_each_rate_and_its_parts_add_up(
    engine: EngineService, tmp_path: Path
) -> None:
    path = tmp_path / "freshness.json"
    measure_freshness(
        ["--rates", "100", "--probes", "30", f"--json={path}", f"--work_dir={tmp_path / 'runs'}"]
    )
    found = json.loads(path.read_text())["rates"]["100"]
    assert found["probes"] == 30 and found["unlearnt"] == 0
    assert found["requests"]["failed"] == 0
    assert found["delta_bytes"] > 0
    assert list(found["parts"]) == list(PARTS)
    assert all(seconds >= 0 for seconds in found["parts"].values())
    assert found["p50_s"] == pytest.approx(sum(found["parts"].values()), rel=0.5)
