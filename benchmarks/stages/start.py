"""``start``: the trainer's command → its first loss line, while a consumer waits.

The limit is the import of the packages below, in a process that does nothing else. The time of
each import is written to imports.txt in the work folder.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Callable

from benchmarks.processes.pipelines import Losses, Pipeline, fill_one_partition
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.timing import alternate, medians, seconds_of
from examples.services.common import ROOT

STACK = "import mindspore, mindspore_rec, mindpandas.channel, kafka"
OWN = "import src.trainer.service"
IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)")
IMPORTS_SHOWN = 25
WAIT_SECONDS = 5.0  # until the consumer has filled the channel


def run(settings: Settings) -> list[Result]:
    """Measures the seconds to the first loss line, and those of the imports."""
    topics = fill_one_partition(settings, settings.rows)
    (settings.work_dir / "imports.txt").write_text("\n".join(costly_imports()) + "\n")
    with (
        Pipeline(settings, topics.documented, is_documented=True) as documented,
        Pipeline(settings, topics.lines, is_documented=False) as ours,
    ):
        ways: dict[str, Callable[[], float]] = {
            "documented": lambda: _first_line(documented),
            "ours": lambda: _first_line(ours),
            "imports": lambda: seconds_of(lambda: _python("-c", OWN)),
            "limit": lambda: seconds_of(lambda: _python("-c", STACK)),
        }
        for pipeline in (documented, ours):
            pipeline.start_consumer()
        time.sleep(WAIT_SECONDS)
        median = medians(alternate(ways, settings.repeats, "start"))
    result = Result.of_medians("start", "s", median, imports_s=median["imports"])
    return [result]


def _first_line(pipeline: Pipeline) -> float:
    losses = Losses()
    began = time.monotonic()
    trainer = pipeline.start_trainer(losses)
    pipeline.wait_for_steps(trainer, losses, 1)
    seconds = losses.times[0] - began
    pipeline.kill(trainer)
    return seconds


def _python(*arguments: str) -> str:
    """Runs Python in the repository's root; returns its stderr."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr


def costly_imports() -> Sequence[str]:
    """The packages whose modules take longest to import with the trainer, one line each."""
    return summary_of(_python("-X", "importtime", "-c", OWN))


def summary_of(output: str) -> list[str]:
    """The output of ``-X importtime``, summed up by top-level package, the longest first."""
    microseconds: Counter[str] = Counter()
    for cost, package in IMPORT_LINE.findall(output):
        microseconds[package] += int(cost)
    return [
        f"{cost / 1e6:7.3f} s  {package}"
        for package, cost in microseconds.most_common(IMPORTS_SHOWN)
    ]
