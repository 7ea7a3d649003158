"""PyTorch's training steps, in a process that waits between the rounds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.peers.environment import PeerError
from examples.services.common import ROOT, last_lines
from src.process.arrays import Array
from src.process.child_processes import ended_with_parent

SCRIPT = ROOT / "benchmarks" / "peers" / "pytorch_steps.py"
THREAD_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_")
STOP_SECONDS = 10.0


class PyTorchSteps:
    """The process; it has trained on the first batches once the constructor returns.

    It gets no settings of threads from this process's environment: PyTorch's own are its best.

    Args:
        python: A Python that can import PyTorch.
        kind: ``dense``, ``dense_decay``, ``sparse`` or ``adaptive``.
        values: Initial weights by name, and the columns of all batches, see ``pytorch_steps.py``.
        settings: How the model learns.
        folder: For the values and the process's stderr.

    Attributes:
        name: The library and its version.
        losses: Two numbers for each of the first batches, float64[steps, 2].

    Raises:
        PeerError: It failed.
    """

    def __init__(
        self,
        python: Path,
        kind: str,
        values: Mapping[str, Array],
        settings: Mapping[str, Any],
        folder: Path,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path, self._log = folder / f"pytorch_{kind}.npz", folder / f"pytorch_{kind}.log"
        np.savez(path, settings=json.dumps(dict(settings)), **values)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(THREAD_SETTINGS)
        }
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [str(python), str(SCRIPT), kind, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                preexec_fn=ended_with_parent(signal.SIGKILL),
            )
        try:
            said = json.loads(self._answer())
        except PeerError:
            self.close()
            raise
        finally:
            path.unlink()
        self.name = f"PyTorch {said['version'].partition('+')[0]}"
        self.losses = np.array(said["losses"])

    def milliseconds(self) -> float:
        """Trains some steps; milliseconds per step."""
        return self._ask("round")

    def multiply_adds(self) -> float:
        """Multiply-adds per second of the first layer's product."""
        return self._ask("products")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> PyTorchSteps:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, what: str) -> float:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer says it better
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"PyTorch failed: {last_lines(self._log, 1)}")
        return line


def columns_of(batches: Sequence[Sequence[Array]]) -> dict[str, Array]:
    """The columns of batches, all of them in one array each: id, weight, label and maybe key."""
    names = ("id", "weight", "label", "key")
    return {name: np.stack(parts) for name, parts in zip(names, zip(*batches))}
