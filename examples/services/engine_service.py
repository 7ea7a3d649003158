"""The yr engine of MindPandas on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from examples.services.coarse_timers import coarse_timers
from examples.services.common import HOST, ROOT, ServiceError, wait_until
from src.process.ports import listening_ports

logger = logging.getLogger(__name__)

# Waits, in seconds. The engine is up in 7 s on two idle cores.
ENGINE_COMMAND_TIMEOUT = 120.0
ENGINE_SETTLE_TIMEOUT = 20.0

# Some of the ports that the engine always listens on, without those that other programs use too.
ENGINE_PORTS = {
    21003: "bus proxy",
    12123: "data system master",
    31501: "data system worker",
    32379: "etcd",
}
ENGINE_PATH = "mindpandas/dist_executor/modules/"  # every daemon's executable lies under it
ENGINE_CPUS = 8  # an actor reserves half a core or more, however little it does
ENGINE_STORE_MB = 2048  # shared memory for windows on the channel; 1000 rows take 0.4 MB

# Runs beside an engine that was started in code. When the pipe from the starting process closes
# and is empty, that process was killed: the guard then stops the engine.
ENGINE_GUARD = textwrap.dedent(
    """
    import os, subprocess, sys
    os.nice(10)
    if not sys.stdin.buffer.read(1):
        subprocess.run([sys.argv[1], "stop"], stdin=subprocess.DEVNULL)
    """
)


class EngineService:
    """The yr engine of MindPandas; there can be one on a host, as its ports are fixed.

    If one is running already it is used and never stopped. The engine's logs go to
    ``~/mindpandas/log``. The engine is started in the root of this repository, as actors import
    modules from the folder it was started in.

    Args:
        address: the address that the engine's daemons listen on and that clients connect to.
        cpu: number of CPUs that the engine may give to actors; at least 8 if None, as idle actors
            reserve a share.
        detached: whether the engine outlives this process; else it is stopped with it.

    Attributes:
        started_here: whether the running engine was started by this object.
    """

    def __init__(self, address: str = HOST, cpu: int | None = None, detached: bool = False) -> None:
        self.address = address
        self.cpu = cpu if cpu is not None else max(ENGINE_CPUS, os.cpu_count() or 1)
        self.detached = detached
        self.started_here = False
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the engine and returns when it is ready; uses one that runs already.

        Raises:
            ServiceError: another program has one of the engine's ports, or ``yrctl start`` failed.
        """
        if self._find_running():
            return
        self.started_here = True
        try:
            self._yrctl_start()
            if not self.detached:
                self._guard = self._start_guard()
        except BaseException:  # Ctrl-C too: nothing half-started stays behind
            self.stop()
            raise
        logger.info("started the yr engine at %s", self.address)

    def stop(self) -> None:
        """Stops the engine if it was started here."""
        if not self.started_here:
            return
        stop_engine()
        self.started_here = False
        if self._guard:
            self._guard.communicate(b"done")
            self._guard = None

    def __enter__(self) -> EngineService:
        """Starts the engine."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the engine if it was started here."""
        self.stop()

    def _find_running(self) -> bool:
        """Returns whether an engine runs; removes the remains of one that has ended."""
        if not engine_processes():
            taken = sorted(listening_ports() & set(ENGINE_PORTS))
            if taken:
                raise ServiceError(
                    f"the yr engine needs port {taken[0]}, which another program uses"
                )
            return False
        # While another process starts it, not all ports are open yet.
        if wait_until(engine_is_running, ENGINE_SETTLE_TIMEOUT, 0.5):
            logger.info("using the yr engine that is running")
            return True
        logger.warning("removing the remains of a yr engine that ended")
        stop_engine()
        return False

    def _yrctl_start(self) -> None:
        memory_mb = psutil.virtual_memory().total >> 20
        store_mb = min(ENGINE_STORE_MB, int(memory_mb * 0.3))
        options = {
            "--address": self.address,
            "--cpu": self.cpu,
            "--datamem": store_mb,
            "--mem": int(memory_mb * 0.9),  # yrctl's own default, lost once --datamem is given
        }
        flags = [str(word) for option in options.items() for word in option]
        with coarse_timers():
            output = _yrctl("start", "--master", *flags)
        if not wait_until(engine_is_running, ENGINE_SETTLE_TIMEOUT):
            raise ServiceError(f"`yrctl start` left no running engine:\n{output}")

    def _start_guard(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", ENGINE_GUARD, str(_yrctl_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=_engine_environment(),
        )


def engine_processes() -> list[psutil.Process]:
    """Returns the engine's daemons, whoever started them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command: Sequence[str] = process.info["cmdline"] or ()
        if command and ENGINE_PATH in command[0]:
            found.append(process)
    return found


def engine_is_running() -> bool:
    """Returns whether the engine's daemons are there and listen on their ports."""
    return set(ENGINE_PORTS) <= listening_ports() and bool(engine_processes())


def stop_engine() -> None:
    """Stops the engine of this host, whoever started it.

    Raises:
        ServiceError: ``yrctl stop`` failed or a daemon can't be stopped.
    """
    output = _yrctl("stop")
    if wait_until(lambda: not engine_processes(), ENGINE_SETTLE_TIMEOUT):
        return
    for process in engine_processes():  # mostly the remains of a start that failed
        logger.warning("`yrctl stop` left %s running: killing it", process.info["cmdline"][0])
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if not wait_until(lambda: not engine_processes(), ENGINE_SETTLE_TIMEOUT):
        names = sorted({Path(process.info["cmdline"][0]).name for process in engine_processes()})
        raise ServiceError(f"`yrctl stop` left {', '.join(names)} running:\n{output}")


def _yrctl_path() -> Path:
    path = Path(sys.executable).with_name("yrctl")
    if not path.exists():
        raise ServiceError(f"no yrctl beside {sys.executable}: run `make setup` and use .venv")
    return path


def _engine_environment() -> dict[str, str]:
    """The environment for yrctl and, through it, for the engine's daemons."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    environment = {
        # Else the data system logs 25 KB a window, up to 25 files of 400 MB.
        "GLOG_minloglevel": "1",
        "GLOG_max_log_size": "20",
        **os.environ,
        "PATH": path,  # yrctl's scripts call `python` and want it to be this one
    }
    # `yrctl stop` finds its daemons in the output of ps, which COLUMNS would cut short.
    environment.pop("COLUMNS", None)
    return environment


def _yrctl(*arguments: str) -> str:
    """Runs yrctl in the repository's root and returns the end of its output."""
    with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as the daemons live
        try:
            code = subprocess.run(
                [str(_yrctl_path()), *arguments],
                cwd=ROOT,
                env=_engine_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=ENGINE_COMMAND_TIMEOUT,
                start_new_session=True,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        output.seek(0)
        tail = "\n".join(output.read().decode(errors="replace").splitlines()[-25:])
    if code != 0:
        raise ServiceError(f"`yrctl {' '.join(arguments)}` failed (exit code {code}):\n{tail}")
    return tail
