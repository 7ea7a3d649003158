"""Who may change a folder of checkpoints: one process at a time, on one host or on several.

The kernel's ``flock`` is asked first: it is exact, and it ends with its process. But on network
file systems it may fail, or be granted on two hosts at once. So an owner file counts beside it. It
appears in one piece, names its process, and its time of change is renewed every few seconds. Who
finds it knows three cases. A process of this host that has ended is replaced at once. One that runs
has the folder. One that can't be seen from here is watched: if its heartbeat is silent for long
enough, it is replaced.

A process that was only held up may go on after that. It calls ``confirm`` before each change, which
then fails.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from src.checkpoints.unit import CheckpointError

logger = logging.getLogger(__name__)

LOCK, OWNER = ".lock", ".owner"
BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0
"""As some file systems show a change late, it is several beats."""
NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF, errno.EIO)
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


class StoppedWaiting(CheckpointError):
    """A stop was asked for while another owner was watched."""


@dataclass(frozen=True)
class Owner:
    """A process, as its owner file describes it.

    Attributes:
        token: Chosen at random for each lock.
        host: The host's name.
        pid: The process.
        began: When it began, in the kernel's clock ticks since boot.
        boot: Identifies the host's boot.
        pids: Identifies the PID namespace.
    """

    token: str
    host: str
    pid: int
    began: int
    boot: str
    pids: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @classmethod
    def ourselves(cls) -> Owner:
        """This process, with a new token."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pid = os.getpid()
        pids = os.readlink("/proc/self/ns/pid")
        return cls(secrets.token_hex(8), socket.gethostname(), pid, _began(pid) or 0, boot, pids)

    def runs(self) -> bool | None:
        """Whether it runs; None where that can't be seen from here."""
        here = Owner.ourselves()
        if (self.boot, self.pids) != (here.boot, here.pids):
            return None
        return _began(self.pid) == self.began


def _began(pid: int) -> int | None:
    """When a process began; None where there is none, or only its exit code is left."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *numbers = stat.rpartition(")")[2].split()  # its name may hold blanks
    return None if state in "ZX" else int(numbers[18])


class FolderLock:
    """The right to change a folder.

    Args:
        directory: The folder.
        give_up: Asked while another owner's heartbeat is watched.
        silent_seconds: How long an owner that can't be seen must be silent to be replaced.
        beat_seconds: How often the own heartbeat is renewed.
    """

    def __init__(
        self,
        directory: Path,
        give_up: Callable[[], bool] = lambda: False,
        silent_seconds: float = SILENT_SECONDS,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self._directory = directory
        self._path = directory / OWNER
        self._give_up = give_up
        self._silent_seconds = silent_seconds
        self._beat_seconds = beat_seconds
        self._self = Owner.ourselves()
        self._descriptor: int | None = None
        self._ending = threading.Event()
        self._heart: threading.Thread | None = None

    def acquire(self) -> None:
        """Keeps others from changing the folder until ``release``, or until this process ends.

        Raises:
            CheckpointError: Another process has it: two trainers would overwrite each other.
        """
        try:
            self._flock()
            while not self._make_owner_file():
                self._replace_owner()
        except BaseException as error:
            self._close()
            if not isinstance(error, OSError):
                raise
            raise CheckpointError(f"can't lock {self._directory}: {error.strerror}") from None
        self._heart = threading.Thread(target=self._beat, name="checkpoint-owner", daemon=True)
        self._heart.start()

    def confirm(self) -> None:
        """Makes sure that the folder is still this lock's.

        Raises:
            CheckpointError: Another process has taken it over, or that can't be found out.
        """
        try:
            owner = self._read()
            if owner is None and self._make_owner_file():
                return  # somebody has removed the file, and nobody has taken its place
            owner = owner or self._read()
        except OSError as error:
            raise CheckpointError(
                f"can't confirm that {self._directory} is still ours: {error.strerror}"
            ) from None
        if owner is None or owner.token != self._self.token:
            raise CheckpointError(
                f"{owner or 'another process'} has taken over {self._directory}: this trainer has "
                "shown no sign of life for a while; it changes nothing there any more"
            )

    def release(self) -> None:
        """Lets others have the folder."""
        self._ending.set()
        if self._heart is not None:
            self._heart.join()
            self._heart = None
            with contextlib.suppress(OSError):
                owner = self._read()
                if owner is not None and owner.token == self._self.token:
                    self._path.unlink()
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # --- the kernel's lock

    def _flock(self) -> None:
        path = self._directory / LOCK
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._read()
            raise self._refusal(owner.pid if owner is not None else None) from None
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            logger.info("%s: no locks here (%s), so heartbeats count", path, error.strerror)

    # --- the owner file

    def _make_owner_file(self) -> bool:
        """Makes the owner file in one piece; returns False where there is one."""
        aside = self._directory / f"{OWNER}.{self._self.token}"
        content = json.dumps(asdict(self._self)).encode()
        try:
            with open(aside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(aside, self._path)
        except FileExistsError:
            # The answer to a request that was repeated on the way: the first one did succeed.
            return os.stat(aside).st_nlink == 2
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return self._create(content)
        finally:
            aside.unlink(missing_ok=True)
        return True

    def _create(self, content: bytes) -> bool:
        """Makes the owner file where there are no hard links."""
        try:
            with open(self._path, "xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def _read(self) -> Owner | None:
        """The owner that the file names; None where there is no file, or one that says nothing."""
        try:
            return Owner(**json.loads(self._path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _replace_owner(self) -> None:
        """Removes the owner file of a process that has ended.

        Raises:
            CheckpointError: It has not ended.
        """
        owner = self._read()
        runs = owner.runs() if owner is not None else None
        if runs:
            assert owner is not None
            raise self._refusal(owner.pid)
        if runs is None and not self._is_silent(owner):
            return
        # Another one may do the same in this moment. Then one of both sees the other's file, here
        # or before its first change.
        if self._read() == owner:
            logger.info("%s: taken over from %s, which has ended", self._directory, owner)
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _is_silent(self, owner: Owner | None) -> bool:
        """Watches an owner that can't be seen; returns False where its file has changed hands.

        Raises:
            CheckpointError: It shows a sign of life.
        """
        before = self._beat_seen()
        if before is None:
            return False
        logger.info(
            "%s is used by %s, which can't be seen from here: watching its heartbeat for %g s",
            self._directory,
            owner or "an unknown process",
            self._silent_seconds,
        )
        until = time.monotonic() + self._silent_seconds
        while time.monotonic() < until:
            if self._give_up():
                raise StoppedWaiting(f"{self._directory} was not free yet")
            time.sleep(min(0.5, self._silent_seconds / 10))
            seen = self._beat_seen()
            if seen is None or self._read() != owner:
                return False
            if seen != before:
                raise CheckpointError(
                    f"another trainer is using {self._directory} ({owner or 'unknown process'}); "
                    "--ckpt_path names another folder"
                )
        return True

    def _beat_seen(self) -> int | None:
        try:
            # Opened each time: a network file system then asks for what has changed.
            with open(self._path, "rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def _refusal(self, pid: int | None) -> CheckpointError:
        who = f" (process {pid})" if pid is not None else ""
        return CheckpointError(
            f"another trainer is using {self._directory}{who}; --ckpt_path names another folder"
        )

    def _beat(self) -> None:
        """Renews the heartbeat until the lock is released, or another one has the folder."""
        while not self._ending.wait(self._beat_seconds):
            try:
                owner = self._read()
                if owner is not None and owner.token != self._self.token:
                    logger.error("%s has taken over %s", owner, self._directory)
                    return
                if owner is not None:
                    os.utime(self._path)
            except OSError as error:
                logger.warning("%s: %s", self._path, error.strerror)
