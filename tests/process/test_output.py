"""Standard output that nobody reads any more, is full or was never open."""

from __future__ import annotations

import subprocess
import sys

import pytest

from examples.services.common import ROOT

SCRIPT = """
from src.process.logs import configure_logging, keep_stdout_for_ourselves
from src.process.output import OutputError, say
configure_logging()
keep_stdout_for_ourselves()
import time, sys
heard = say("one", "two")
time.sleep(0.5)
try:
    heard = [heard, say("three"), say("four")]
except OutputError as error:
    heard = [heard, str(error)]
print(heard, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("", "[True, True, True]"),
        ("| head -2", "[True, False, True]"),
        (">&-", "[True, True, True]"),
        (">&- <&-", "[True, True, True]"),
    ],
)
def test_lines_end_quietly_where_nobody_reads_them(ending: str, said: str) -> None:
    command = ["bash", "-c", f'"{sys.executable}" -c "$0" {ending}', SCRIPT]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.stderr, ended.returncode) == (f"{said}\n", 0)
    assert ended.stdout == {"": "one\ntwo\nthree\nfour\n", "| head -2": "one\ntwo\n"}.get(
        ending, ""
    )


def test_a_full_disk_is_named() -> None:
    code = "from src.process.output import say; say('x')"
    command = ["bash", "-c", f'exec "{sys.executable}" -c "$0" > /dev/full', code]
    ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert ended.stderr.endswith(
        "OutputError: can't write standard output: No space left on device\n"
    )
