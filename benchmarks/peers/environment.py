"""An environment with PyTorch, which needs a newer Python and NumPy than the project has."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from examples.services.common import ROOT

logger = logging.getLogger("benchmarks")

PYTORCH_VERSION = "2.15.0"
PYTHONS = ("3.13", "3.12", "3.11")  # the newest that is there is taken
ENVIRONMENT = ROOT / "build" / "pytorch"
WHICH = "import sys; print('%d.%d' % sys.version_info[:2])"
NEEDED_GB = 10.0  # the packages as they come, and as they are installed


class PeerError(RuntimeError):
    """A peer can't be measured; the message is one line."""


def pytorch_python() -> Path:
    """The Python of an environment with PyTorch, which is made if it is not there.

    uv shows its progress. Where the environment variable UV_TORCH_BACKEND is "cpu", uv takes the
    much smaller build for the CPU, if it can reach the place that has it.

    Raises:
        PeerError: It can't be installed.
    """
    python = ENVIRONMENT / "bin" / "python"
    if _version(python) == PYTORCH_VERSION:
        return python
    packages = [f"torch=={PYTORCH_VERSION}", "numpy"]
    install = ["pip", "install", f"--python={python}"]
    logger.info("installing PyTorch %s into %s, some GB", PYTORCH_VERSION, ENVIRONMENT)
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(ENVIRONMENT.parent).free / 2**30
    if free_gb < NEEDED_GB:
        raise _refused(f"it needs {NEEDED_GB:.0f} GB of disk, and {free_gb:.1f} are free")
    uv = find_uv()
    base = next(newer_pythons(), PYTHONS[0])  # a version alone makes uv fetch that Python
    _quietly(uv, "venv", "--clear", f"--python={base}", str(ENVIRONMENT))
    _quietly(uv, *install, "--dry-run", *packages)  # says in one line what can't be found
    if subprocess.run([uv, *install, *packages]).returncode or _version(python) is None:
        raise _refused("uv says why above")
    return python


def find_uv() -> str:
    """uv: the user's, or the one that tools/setup.sh has installed.

    Raises:
        PeerError: There is none.
    """
    own = ROOT / "build" / "uv" / "bin" / "uv"
    uv = shutil.which("uv") or (str(own) if own.exists() else None)
    if uv is None:
        raise _refused("uv is missing: run make setup")
    return uv


def newer_pythons() -> Iterator[str]:
    """The Pythons on PATH and under pyenv that PyTorch runs on, the newest first."""
    for version in PYTHONS:
        under_pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}*/bin/python"))
        for python in (f"python{version}", *map(str, under_pyenv)):
            # A pyenv shim exists for every version but runs only the selected ones.
            if _output(python, "-c", WHICH) == version:
                yield python


def _version(python: Path) -> str | None:
    """The PyTorch that a Python can import; None for none."""
    version = _output(str(python), "-c", "import numpy, torch; print(torch.__version__)")
    return version and version.partition("+")[0]


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()


def _quietly(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise _refused(reason_of(done.stderr) or f"uv ended with {done.returncode}")


def reason_of(output: str) -> str:
    """What uv says about a failure, as one line: the error and its first cause."""
    lines = (line.strip() for line in output.splitlines())
    said = [line for line in lines if line.startswith(("error: ", "cause: "))]
    return ": ".join(line.partition(": ")[2].rstrip(".") for line in said[:2])


def _refused(reason: str) -> PeerError:
    return PeerError(
        f"PyTorch {PYTORCH_VERSION} can't be had ({reason}); leave out --peers to run without it"
    )
