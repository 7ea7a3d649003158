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
from typing import Optional

from src.process.child_processes import ended_with_parent
from src.process.ports import free_port, is_listening
from src.process.stop import StopFlag
from src.ranks.heartbeat import FOLDER_VARIABLE, Beat, HangDetector, last_beat
from src.ranks.placement import INDEX_VARIABLE, MEETING_VARIABLE, NOT_MET_EXIT_CODE
from src.ranks.rank_output import RankOutput

logger = logging.getLogger(__name__)

ATTEMPTS = 6
LISTEN_SECONDS = 60.0
LOOK_SECONDS = 0.1
BLAME_SECONDS = 1.0  # within which another rank's failure may turn out to be the first one's cause
STRAGGLER_SECONDS = 30.0
STOP_SECONDS = 90.0  # a checkpoint may be under way
END_SECONDS = 5.0
NOT_MET = (NOT_MET_EXIT_CODE, -signal.SIGALRM, 128 + signal.SIGALRM)
# How a rank ends that is told to stop before it has a handler; later it ends with 0.
NOT_HEARD = tuple(
    code for number in (signal.SIGTERM, signal.SIGUSR1) for code in (-number, 128 + number)
)
MPIRUN_BLAMES = re.compile(r"process rank (\d+)|Process name: \[\[\d+,\d+\],(\d+)\]")


@dataclass(frozen=True)
class Launch:
    """What is to be run.

    Attributes:
        command: The command of one rank, and of the scheduler.
        size: Ranks of the whole launch.
        local: Ranks on this machine.
        scheduler_host: Address of the dynamic network's scheduler; "" where there is none.
        scheduler_port: Its port.
        starts_scheduler: Whether it runs on this machine.
        chooses_port: Whether another port will do as well, as nobody elsewhere has to know it.
        mpirun: ``mpirun`` and its flags, where that starts the ranks.
        meeting_seconds: How long the ranks may take to meet.
        hang_seconds: How long a rank may hang; 0 for ever.
        logs: Folder of the logs.
    """

    command: Sequence[str]
    size: int
    local: int
    scheduler_host: str
    scheduler_port: int
    starts_scheduler: bool
    chooses_port: bool
    mpirun: Sequence[str]
    meeting_seconds: int
    hang_seconds: float
    logs: Path

    def environment(self, port: int, pulses: str) -> dict[str, str]:
        """What all processes are told."""
        told = {
            FOLDER_VARIABLE: pulses,
            MEETING_VARIABLE: str(self.meeting_seconds),
        }
        if self.scheduler_host:
            told["MS_SCHED_HOST"] = self.scheduler_host
            told["MS_SCHED_PORT"] = str(port)
            told["MS_WORKER_NUM"] = str(self.size)
        return told


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
    ended_at: Optional[float] = field(default=None)

    @property
    def code(self) -> Optional[int]:
        return self.process.poll()


class Supervisor:
    """Starts the processes of a launch and looks after them until the last has ended.

    Args:
        launch: What to run.
        flag: Ends all ranks cleanly when set.
    """

    def __init__(self, launch: Launch, flag: StopFlag) -> None:
        self._launch = launch
        self._flag = flag
        self._output = RankOutput(launch.logs)
        self._scheduler: Optional[_Process] = None
        self._ranks: list[_Process] = []

    def run(self) -> int:
        """Runs to the end; 0 where every rank has ended well, else 1. Must be the main thread.

        Where the ranks did not meet, which MindSpore's start does not always manage, all are
        started again on another port.
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
        with tempfile.TemporaryDirectory(prefix="pulses_") as pulses:
            try:
                if self._launch.starts_scheduler and not self._start_scheduler(port, pulses):
                    return End.NOT_MET
                self._start_ranks(port, pulses)
                return self._watch(Path(pulses))
            finally:
                self._end_all()

    # --- starting

    def _start_scheduler(self, port: int, pulses: str) -> bool:
        told = {**self._launch.environment(port, pulses), "MS_ROLE": "MS_SCHED"}
        self._scheduler = self._start("scheduler", -1, self._launch.command, told)
        give_up_at = time.monotonic() + LISTEN_SECONDS
        while not is_listening(port):
            over = time.monotonic() >= give_up_at or self._flag.wait(LOOK_SECONDS)
            if over or self._scheduler.code is not None:
                return False
        logger.info("the scheduler listens on %s:%d", self._launch.scheduler_host, port)
        return True

    def _start_ranks(self, port: int, pulses: str) -> None:
        launch = self._launch
        told = launch.environment(port, pulses)
        if launch.mpirun:
            self._ranks = [self._start("mpirun", -1, [*launch.mpirun, *launch.command], told)]
            return
        if launch.scheduler_host:
            told["MS_ROLE"] = "MS_WORKER"
        for index in range(launch.local):
            own = {**told, INDEX_VARIABLE: str(index)}
            self._ranks.append(self._start(f"worker {index}", index, launch.command, own))

    def _start(
        self, name: str, index: int, command: Sequence[str], told: Mapping[str, str]
    ) -> _Process:
        # mpirun ends its ranks when it is asked to end, but not when it is killed.
        number = signal.SIGTERM if name == "mpirun" else signal.SIGKILL
        process = subprocess.Popen(
            command,
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us, who pass it on
            preexec_fn=ended_with_parent(number),
        )
        assert process.stdout is not None and process.stderr is not None
        readers = (
            self._output.follow(name, process.stdout, sys.stdout),
            self._output.follow(name, process.stderr, sys.stderr),
        )
        return _Process(name, index, process, readers)

    # --- watching

    def _watch(self, pulses: Path) -> End:
        hangs = HangDetector(self._launch.hang_seconds) if self._launch.hang_seconds else None
        told_at: Optional[float] = None
        while True:
            if self._flag.is_set() and told_at is None:
                told_at = time.monotonic()
                self._tell_to_stop()
            wrong = self._what_is_wrong(told_at)
            if wrong is None and hangs is not None:
                wrong = self._hanging(hangs, pulses)
            if wrong is not None:
                return self._fail(wrong, pulses)
            if all(rank.code == 0 for rank in self._ranks):
                logger.info("all ranks have ended well")
                return End.WELL
            time.sleep(LOOK_SECONDS)

    def _tell_to_stop(self) -> None:
        """Passes the stop on; one rank that hears of it stops all."""
        logger.info("%s: stopping all ranks", self._flag.reason)
        number = signal.SIGUSR1 if self._launch.mpirun else signal.SIGTERM
        for rank in self._ranks:
            if rank.code is None:
                rank.process.send_signal(number)

    def _what_is_wrong(self, told_at: Optional[float]) -> Optional[str]:
        """What of the processes' ends is not as it should be; "" where the codes speak."""
        now = time.monotonic()
        for process in (*self._ranks, *((self._scheduler,) if self._scheduler else ())):
            if process.code is not None and process.ended_at is None:
                process.ended_at = now
        if any(rank.code for rank in self._ranks):
            return ""
        running = [rank.name for rank in self._ranks if rank.code is None]
        if not running:
            return None
        scheduler = self._scheduler
        # It may be the first to see that all have left.
        if scheduler is not None and scheduler.ended_at is not None:
            patience = 0.0 if scheduler.code else END_SECONDS
            if now - scheduler.ended_at >= patience:
                return f"the scheduler has ended ({describe(scheduler.code)})"
        ended = [rank.ended_at for rank in self._ranks if rank.ended_at is not None]
        if ended and now - min(ended) > STRAGGLER_SECONDS:
            return f"{', '.join(running)} did not end with the others"
        if told_at is not None and now - told_at > STOP_SECONDS:
            return f"{', '.join(running)} did not stop within {STOP_SECONDS:.0f} s"
        return None

    def _beats(self, pulses: Path) -> dict[int, Beat]:
        """The last beats of the ranks that have met the others, by the launcher's number.

        One that has not may be silent: MindSpore holds the interpreter while it waits for them.
        """
        size = self._launch.size if self._launch.mpirun else self._launch.local
        found = {index: last_beat(pulses, index) for index in range(size)}
        return {index: beat for index, beat in found.items() if beat and beat.rank >= 0}

    def _hanging(self, hangs: HangDetector, pulses: Path) -> Optional[str]:
        found = self._beats(pulses)
        beats = {index: beat for index, beat in found.items() if is_running(beat.pid)}
        hang = hangs.look(beats, time.time())
        if hang is None:
            return None
        index, what = hang
        return f"{self._titled(index, pulses)} {what}{self._last_words(f'worker {index}')}"

    # --- failing and ending

    def _fail(self, wrong: str, pulses: Path) -> End:
        """Says what went wrong, and whether another attempt is worth while."""
        if wrong:
            logger.error("%s", wrong)
            # Its own patience with ranks that do not register may be the first to end.
            is_early = self._scheduler_is_gone() and not self._beats(pulses)
            return End.NOT_MET if is_early else End.FAILED
        time.sleep(BLAME_SECONDS)
        failed = [rank for rank in self._ranks if rank.code]
        is_early = self._flag.is_set() and not self._beats(pulses)
        expected = (*NOT_MET, *NOT_HEARD) if is_early else NOT_MET
        if all(rank.code in expected for rank in failed):
            return End.NOT_MET
        for rank in failed:
            index = self._blamed_by_mpirun() if self._launch.mpirun else rank.index
            name = rank.name if index is None else f"worker {index}"
            title = rank.name if index is None else self._titled(index, pulses)
            words = self._last_words(name)
            logger.error("%s has failed: %s%s", title, describe(rank.code), words)
        return End.FAILED

    def _scheduler_is_gone(self) -> bool:
        return self._scheduler is not None and self._scheduler.code is not None

    def _blamed_by_mpirun(self) -> Optional[int]:
        found = MPIRUN_BLAMES.search("\n".join(self._output.tail("mpirun")))
        return int(found[1] or found[2]) if found else None

    def _titled(self, index: int, pulses: Path) -> str:
        beat = last_beat(pulses, index)
        rank = f" (rank {beat.rank})" if beat is not None and beat.rank >= 0 else ""
        return f"worker {index}{rank}"

    def _last_words(self, name: str) -> str:
        tail = self._output.tail(name)
        lines = "".join(f"\n    {line}" for line in tail)
        return f"; the end of {self._output.log_path(name)}:{lines}" if tail else ""

    def _end_all(self) -> None:
        """Leaves nothing running."""
        everyone = [*self._ranks, *([self._scheduler] if self._scheduler else [])]
        for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
            running = [process for process in self._ranks if process.code is None]
            if not running:
                break
            for process in running:
                process.process.send_signal(number)
            give_up_at = time.monotonic() + seconds
            while time.monotonic() < give_up_at and any(p.code is None for p in running):
                time.sleep(LOOK_SECONDS)
        if self._scheduler is not None and self._scheduler.code is None:
            # Other machines may have workers that leave a little later.
            is_needed = self._ranks and not self._launch.chooses_port
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._scheduler.process.wait(END_SECONDS if is_needed else 0)
            self._scheduler.process.kill()
        for process in everyone:
            process.process.wait()
        give_up_at = time.monotonic() + END_SECONDS  # somebody else may hold a pipe of theirs
        for reader in (reader for process in everyone for reader in process.readers):
            reader.join(max(0.0, give_up_at - time.monotonic()))


def is_running(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    return Path(f"/proc/{pid}").exists()


def describe(code: Optional[int]) -> str:
    """An exit code in words."""
    if code is None:
        return "still running"
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(number).name}"
    return f"exit code {code}"
