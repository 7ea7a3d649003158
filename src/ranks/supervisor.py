"""Runs the processes of a launch together: they start together, stop together and fail together."""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.process.child_processes import ended_with_parent
from src.process.ports import free_port, is_listening
from src.process.stop import StopFlag
from src.ranks.heartbeat import FOLDER_VARIABLE, HangDetector, Heartbeat, last_heartbeat
from src.ranks.placement import INDEX_VARIABLE, MEETING_VARIABLE, NOT_MET_EXIT_CODE
from src.ranks.rank_output import RankOutput

logger = logging.getLogger(__name__)

ATTEMPTS = 6
LISTEN_SECONDS = 60.0
POLL_SECONDS = 0.1
CAUSE_SECONDS = 1.0  # the rank whose failure caused the others' may end this much later
END_TOGETHER_SECONDS = 30.0
STOP_SECONDS = 90.0  # a checkpoint may be under way
END_SECONDS = 5.0
NOT_MET = (NOT_MET_EXIT_CODE, -signal.SIGALRM, 128 + signal.SIGALRM)
# Exit codes of a rank that is stopped before it has a signal handler; later it ends with 0.
NO_HANDLER = tuple(
    code for number in (signal.SIGTERM, signal.SIGUSR1) for code in (-number, 128 + number)
)
FAILED_UNDER_MPIRUN = re.compile(r"process rank (\d+)|Process name: \[\[\d+,\d+\],(\d+)\]")


@dataclass(frozen=True)
class Launch:
    """What to run.

    Attributes:
        command: The command of one rank, and of the scheduler.
        size: Ranks of the whole launch.
        local: Ranks on this machine.
        meeting_seconds: How long the ranks may take to meet.
        hang_seconds: How long a rank may hang; 0 for no limit.
        logs: Folder of the logs.
        scheduler_host: Address of the dynamic network's scheduler; "" where there is none.
        scheduler_port: Its port.
        starts_scheduler: Whether it runs on this machine.
        chooses_port: Whether its port may change, as no other machine has to know it.
        mpirun: ``mpirun`` and its flags, if mpirun starts the ranks; else empty.
    """

    command: Sequence[str]
    size: int
    local: int
    meeting_seconds: int
    hang_seconds: float
    logs: Path
    scheduler_host: str = ""
    scheduler_port: int = 0
    starts_scheduler: bool = False
    chooses_port: bool = False
    mpirun: Sequence[str] = ()

    def environment(self, port: int, heartbeats: str) -> dict[str, str]:
        """The environment variables that all processes get.

        Args:
            port: The scheduler's, which may have changed since the launch began.
            heartbeats: Folder of the heartbeats.
        """
        variables = {
            FOLDER_VARIABLE: heartbeats,
            MEETING_VARIABLE: str(self.meeting_seconds),
        }
        if self.scheduler_host:
            variables["MS_SCHED_HOST"] = self.scheduler_host
            variables["MS_SCHED_PORT"] = str(port)
            variables["MS_WORKER_NUM"] = str(self.size)
        return variables


class End(enum.Enum):
    """How an attempt has ended."""

    WELL = enum.auto()
    NOT_MET = enum.auto()
    FAILED = enum.auto()


@dataclass
class _Process:
    name: str
    index: int
    process: subprocess.Popen[bytes]
    readers: Sequence[threading.Thread]
    ended_at: float | None = field(default=None)

    @property
    def code(self) -> int | None:
        return self.process.poll()


class Supervisor:
    """Starts the processes of a launch and watches them until the last has ended.

    Args:
        launch: What to run.
        flag: Ends all ranks cleanly when set.
    """

    def __init__(self, launch: Launch, flag: StopFlag) -> None:
        self._launch = launch
        self._flag = flag
        self._output = RankOutput(launch.logs)
        self._scheduler: _Process | None = None
        self._ranks: list[_Process] = []

    def run(self) -> int:
        """Runs to the end, in the main thread.

        MindSpore's start sometimes fails: the ranks do not meet. Then all are started again on
        another port.

        Returns:
            0 if every rank has ended well, else 1.
        """
        port = self._launch.scheduler_port
        with contextlib.closing(self._output):
            for attempt in range(1, ATTEMPTS + 1):
                end = self._attempt(port)
                if end is not End.NOT_MET:
                    return 0 if end is End.WELL else 1
                if self._flag.is_set():
                    logger.info("%s: stopped before the ranks had met", self._flag.reason)
                    return 0
                if not self._launch.chooses_port or attempt == ATTEMPTS:
                    break
                port = free_port()
                logger.warning("the ranks did not meet, trying again on port %d", port)
            logger.error("the %d ranks did not meet", self._launch.size)
            return 1

    def _attempt(self, port: int) -> End:
        self._ranks, self._scheduler = [], None
        with tempfile.TemporaryDirectory(prefix="heartbeats_") as heartbeats:
            try:
                if self._launch.starts_scheduler and not self._start_scheduler(port, heartbeats):
                    return End.NOT_MET
                self._start_ranks(port, heartbeats)
                return self._watch(Path(heartbeats))
            finally:
                self._end_all()

    # --- starting

    def _start_scheduler(self, port: int, heartbeats: str) -> bool:
        variables = {**self._launch.environment(port, heartbeats), "MS_ROLE": "MS_SCHED"}
        self._scheduler = self._start("scheduler", -1, self._launch.command, variables)
        give_up_at = time.monotonic() + LISTEN_SECONDS
        while not is_listening(port):
            is_over = time.monotonic() >= give_up_at or self._flag.wait(POLL_SECONDS)
            if is_over or self._scheduler.code is not None:
                return False
        logger.info("the scheduler listens on %s:%d", self._launch.scheduler_host, port)
        return True

    def _start_ranks(self, port: int, heartbeats: str) -> None:
        launch = self._launch
        variables = launch.environment(port, heartbeats)
        if launch.mpirun:
            command = [*launch.mpirun, *launch.command]
            self._ranks = [self._start("mpirun", -1, command, variables)]
            return
        if launch.scheduler_host:
            variables["MS_ROLE"] = "MS_WORKER"
        for index in range(launch.local):
            own = {**variables, INDEX_VARIABLE: str(index)}
            self._ranks.append(self._start(f"worker {index}", index, launch.command, own))

    def _start(
        self, name: str, index: int, command: Sequence[str], variables: Mapping[str, str]
    ) -> _Process:
        # mpirun ends its ranks on SIGTERM, but not when it is killed.
        number = signal.SIGTERM if name == "mpirun" else signal.SIGKILL
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches only this process, which passes it on
            preexec_fn=ended_with_parent(number),
        )
        assert process.stdout is not None and process.stderr is not None
        readers = (
            self._output.follow(name, process.stdout, sys.stdout),
            self._output.follow(name, process.stderr, sys.stderr),
        )
        return _Process(name, index, process, readers)

    def _processes(self) -> list[_Process]:
        return self._ranks if self._scheduler is None else [*self._ranks, self._scheduler]

    # --- watching

    def _watch(self, heartbeats: Path) -> End:
        hangs = HangDetector(self._launch.hang_seconds) if self._launch.hang_seconds else None
        stop_sent_at: float | None = None
        while True:
            if self._flag.is_set() and stop_sent_at is None:
                stop_sent_at = time.monotonic()
                self._send_stop()
            fault = self._fault(stop_sent_at)
            if fault is None and hangs is not None:
                fault = self._hang(hangs, heartbeats)
            if fault is not None:
                return self._fail(fault, heartbeats)
            if all(rank.code == 0 for rank in self._ranks):
                logger.info("all ranks have ended well")
                return End.WELL
            time.sleep(POLL_SECONDS)

    def _send_stop(self) -> None:
        """Passes the stop on; one rank that receives it stops all."""
        logger.info("%s: stopping all ranks", self._flag.reason)
        number = signal.SIGUSR1 if self._launch.mpirun else signal.SIGTERM
        for rank in self._ranks:
            if rank.code is None:
                rank.process.send_signal(number)

    def _fault(self, stop_sent_at: float | None) -> str | None:
        """What is wrong, None for nothing; "" if a rank has failed, as its exit code shows."""
        now = time.monotonic()
        for process in self._processes():
            if process.code is not None and process.ended_at is None:
                process.ended_at = now
        if any(rank.code for rank in self._ranks):
            return ""
        running = [rank.name for rank in self._ranks if rank.code is None]
        if not running:
            return None
        scheduler = self._scheduler
        # The scheduler may notice before this process does that all workers have ended.
        if scheduler is not None and scheduler.ended_at is not None:
            patience = 0.0 if scheduler.code else END_SECONDS
            if now - scheduler.ended_at >= patience:
                return f"the scheduler has ended ({describe(scheduler.code)})"
        ended = [rank.ended_at for rank in self._ranks if rank.ended_at is not None]
        if ended and now - min(ended) > END_TOGETHER_SECONDS:
            return f"{', '.join(running)} did not end with the others"
        if stop_sent_at is not None and now - stop_sent_at > STOP_SECONDS:
            return f"{', '.join(running)} did not stop within {STOP_SECONDS:.0f} s"
        return None

    def _last_heartbeats(self, folder: Path) -> dict[int, Heartbeat]:
        """The last heartbeats of the ranks that have met the others, by the launcher's number.

        A rank that still waits for the others may write none: MindSpore holds the interpreter.
        """
        size = self._launch.size if self._launch.mpirun else self._launch.local
        found = {index: last_heartbeat(folder, index) for index in range(size)}
        return {index: last for index, last in found.items() if last and last.rank >= 0}

    def _hang(self, hangs: HangDetector, heartbeats: Path) -> str | None:
        found = self._last_heartbeats(heartbeats)
        of_running = {index: last for index, last in found.items() if is_running(last.pid)}
        hang = hangs.find(of_running, time.time())
        if hang is None:
            return None
        index, what = hang
        return f"{self._title(index, heartbeats)} {what}{self._log_tail(f'worker {index}')}"

    # --- failing and ending

    def _fail(self, fault: str, heartbeats: Path) -> End:
        """Logs what went wrong, and returns whether another attempt is worth while."""
        if fault:
            logger.error("%s", fault)
            # The scheduler's own time-out for ranks that do not register may be the first.
            is_early = self._scheduler_is_gone() and not self._last_heartbeats(heartbeats)
            return End.NOT_MET if is_early else End.FAILED
        time.sleep(CAUSE_SECONDS)
        failed = [rank for rank in self._ranks if rank.code]
        is_early = self._flag.is_set() and not self._last_heartbeats(heartbeats)
        expected = (*NOT_MET, *NO_HANDLER) if is_early else NOT_MET
        if all(rank.code in expected for rank in failed):
            return End.NOT_MET
        for rank in failed:
            index = self._failed_under_mpirun() if self._launch.mpirun else rank.index
            name = rank.name if index is None else f"worker {index}"
            title = rank.name if index is None else self._title(index, heartbeats)
            log_tail = self._log_tail(name)
            logger.error("%s has failed: %s%s", title, describe(rank.code), log_tail)
        return End.FAILED

    def _scheduler_is_gone(self) -> bool:
        return self._scheduler is not None and self._scheduler.code is not None

    def _failed_under_mpirun(self) -> int | None:
        found = FAILED_UNDER_MPIRUN.search("\n".join(self._output.tail("mpirun")))
        return int(found[1] or found[2]) if found else None

    def _title(self, index: int, heartbeats: Path) -> str:
        last = last_heartbeat(heartbeats, index)
        rank = f" (rank {last.rank})" if last is not None and last.rank >= 0 else ""
        return f"worker {index}{rank}"

    def _log_tail(self, name: str) -> str:
        tail = self._output.tail(name)
        lines = "".join(f"\n    {line}" for line in tail)
        return f"; the end of {self._output.log_path(name)}:{lines}" if tail else ""

    def _end_all(self) -> None:
        """Ends every process that still runs."""
        processes = self._processes()
        for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
            running = [process for process in self._ranks if process.code is None]
            if not running:
                break
            for process in running:
                process.process.send_signal(number)
            give_up_at = time.monotonic() + seconds
            while time.monotonic() < give_up_at and any(p.code is None for p in running):
                time.sleep(POLL_SECONDS)
        if self._scheduler is not None and self._scheduler.code is None:
            # Workers on other machines may end a little later.
            is_needed = self._ranks and not self._launch.chooses_port
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._scheduler.process.wait(END_SECONDS if is_needed else 0)
            self._scheduler.process.kill()
        for process in processes:
            process.process.wait()
        give_up_at = time.monotonic() + END_SECONDS  # a grandchild may still hold their pipe
        for reader in (reader for process in processes for reader in process.readers):
            reader.join(max(0.0, give_up_at - time.monotonic()))


def is_running(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    return Path(f"/proc/{pid}").exists()


def describe(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "still running"
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(number).name}"
    return f"exit code {code}"
