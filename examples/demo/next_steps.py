"""Where to look after a run: three commands."""

from __future__ import annotations

import os
import shlex

from examples.services.common import ROOT
from src.config import Config


def next_steps(config: Config) -> list[str]:
    """One line each for the report page, for own data, and for a vocabulary that grows.

    Args:
        config: The run's configuration; it names the metrics file that the page is made from.
    """
    metrics = shlex.quote(config.metrics_path) if config.metrics_path else "METRICS_FILE"
    quickstart = _command("quickstart.py")
    return [
        f"report page:   {_command('report.py')} {metrics}",
        f"your own data: {quickstart} --data FILE",
        f"adaptive:      {quickstart} --data FILE --config_path {_path('adaptive.yaml')}",
    ]


def _command(script: str) -> str:
    return f"python {_path(script)}"


def _path(name: str) -> str:
    """A path in examples/ as the user's shell can take it: relative to the current folder."""
    return shlex.quote(os.path.relpath(ROOT / "examples" / name))
