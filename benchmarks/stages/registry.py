"""The stages by name, in the order of the stream, and what each needs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from benchmarks.processes.child import run_in_child
from benchmarks.report import Result
from benchmarks.settings import Settings


@dataclass(frozen=True)
class Stage:
    """A stage of the stream.

    Attributes:
        module: The module that measures it, imported only in the measuring process.
        function: The function in it: Settings → list of Result.
        kafka: Whether the stage needs a broker.
        engine: Whether the stage needs the yr engine.
        pytorch: Whether the stage can compare with PyTorch.
        vowpal_wabbit: Whether the stage can compare with Vowpal Wabbit.
    """

    module: str
    function: str = "run"
    kafka: bool = False
    engine: bool = False
    pytorch: bool = False
    vowpal_wabbit: bool = False

    def run(self, settings: Settings) -> list[Result]:
        """Measures the stage."""
        function = getattr(
            importlib.import_module(f"benchmarks.stages.{self.module}"), self.function
        )
        results: list[Result] = function(settings)
        return results


STAGES = {
    "produce": Stage("produce", kafka=True),
    "features": Stage("features"),
    "consume": Stage("consume", kafka=True, engine=True),
    "channel": Stage("channel", engine=True),
    "feed": Stage("feed"),
    "train_step": Stage("train_step", "run_dense", pytorch=True),
    "train_step_sparse": Stage("train_step", "run_sparse", pytorch=True),
    "train_step_adaptive": Stage("train_step_adaptive", pytorch=True),
    "watching": Stage("watching"),
    "end_to_end": Stage("end_to_end", kafka=True, engine=True),
    "end_to_end_adaptive": Stage(
        "end_to_end_adaptive", kafka=True, engine=True, vowpal_wabbit=True
    ),
    "start": Stage("start", kafka=True, engine=True),
}


def run_in_process(name: str, settings: Settings) -> list[Result]:
    """Runs a stage in its own process; no results where it failed (the error is on stderr)."""
    return run_in_child(STAGES[name].run, settings) or []
