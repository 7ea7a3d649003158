"""The right to change a folder: with the kernel's lock, and where that fails or does nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from src.checkpoints.ckpt_file import write_ckpt
from src.checkpoints.locking import OWNER, FolderLock, Owner, StoppedWaiting
from src.checkpoints.store import CheckpointStore
from src.checkpoints.unit import CheckpointError
from tests.checkpoints.test_store import make_network, names, save

FLOCK = "src.checkpoints.locking.fcntl.flock"
IN_USE = "another trainer is using"
HOLDER = """
import sys, time
from pathlib import Path
from src.checkpoints.locking import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("locked", flush=True)
time.sleep(60)
"""


def refuse_with(code: int) -> Callable[[int, int], None]:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    return flock


@pytest.fixture(params=["real", "nothing", errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system makes of flock."""
    kind = request.param
    if kind == "nothing":
        monkeypatch.setattr(FLOCK, lambda *_: None)
    elif kind != "real":
        monkeypatch.setattr(FLOCK, refuse_with(kind))
    return str(kind)


def quick(folder: Path, **others: Any) -> FolderLock:
    return FolderLock(folder, silent_seconds=0.3, beat_seconds=0.05, **others)


def owner_elsewhere(folder: Path, **changes: Any) -> Path:
    """An owner file of a process on another host."""
    owner = replace(Owner.ourselves(), host="elsewhere", boot="another", **changes)
    path = folder / OWNER
    path.write_text(json.dumps(asdict(owner)))
    return path


@pytest.fixture
def beating(tmp_path: Path) -> Iterator[Path]:
    """An owner on another host that is alive."""
    path = owner_elsewhere(tmp_path)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    yield path
    over.set()
    thread.join()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_live_process_of_this_host_has_the_folder(
    flock: str, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=rf"{IN_USE} {tmp_path} \(process {holder.pid}\)"):
        FolderLock(tmp_path).acquire()
    assert time.monotonic() - began < 2
    assert names(tmp_path) == {OWNER}


def test_a_process_that_was_killed_is_replaced_at_once(
    flock: str, holder: subprocess.Popen[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    holder.kill()
    holder.wait()
    began = time.monotonic()
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert time.monotonic() - began < 2
    assert f"taken over from process {holder.pid} on" in caplog.text
    lock.confirm()
    lock.release()


def test_a_process_of_which_only_the_exit_code_is_left_has_ended(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    owner = Owner(**json.loads((tmp_path / OWNER).read_text()))
    assert owner.pid == holder.pid and owner.runs()
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert owner.runs() is False


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path: Path) -> None:
    owner = replace(Owner.ourselves(), began=1)
    (tmp_path / OWNER).write_text(json.dumps(asdict(owner)))
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_folder_can_be_locked_again_and_again(flock: str, tmp_path: Path) -> None:
    for _ in range(3):
        lock = FolderLock(tmp_path)
        lock.acquire()
        with pytest.raises(CheckpointError, match=IN_USE):
            FolderLock(tmp_path).acquire()
        lock.confirm()
        lock.release()
        assert names(tmp_path) == set()


def test_an_owner_on_another_host_that_lives_is_named(
    flock: str, beating: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError,
        match=rf"{IN_USE} {tmp_path} \(process {os.getpid()} on elsewhere\); --ckpt_path",
    ):
        quick(tmp_path).acquire()
    assert Owner(**json.loads(beating.read_text())).host == "elsewhere"


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"token": 1}'])
def test_an_owner_that_is_silent_or_can_not_be_read_is_replaced(
    text: str | None, flock: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = owner_elsewhere(tmp_path)
    if text is not None:
        path.write_text(text)
    began = time.monotonic()
    lock = quick(tmp_path)
    lock.acquire()
    assert time.monotonic() - began >= 0.3
    assert "watching its heartbeat for 0.3 s" in caplog.text
    lock.confirm()
    lock.release()


def test_a_stop_ends_the_watch(tmp_path: Path) -> None:
    owner_elsewhere(tmp_path)
    with pytest.raises(StoppedWaiting):
        FolderLock(tmp_path, lambda: True).acquire()


def test_an_owner_that_releases_during_the_watch_makes_room(tmp_path: Path) -> None:
    path = owner_elsewhere(tmp_path)
    threading.Timer(0.1, path.unlink).start()
    lock = FolderLock(tmp_path, silent_seconds=5)
    began = time.monotonic()
    lock.acquire()
    assert time.monotonic() - began < 4
    lock.release()


def test_the_heartbeat_of_an_owner_is_seen(tmp_path: Path) -> None:
    lock = quick(tmp_path)
    lock.acquire()
    before = os.stat(tmp_path / OWNER).st_mtime_ns
    time.sleep(0.3)
    assert os.stat(tmp_path / OWNER).st_mtime_ns > before
    lock.release()


def test_who_was_replaced_is_told_before_the_next_change(flock: str, tmp_path: Path) -> None:
    lock = quick(tmp_path)
    lock.acquire()
    theirs = owner_elsewhere(tmp_path)
    with pytest.raises(CheckpointError, match=r"on elsewhere has taken over"):
        lock.confirm()
    lock.release()
    assert theirs.exists(), "it is not ours to remove"


def test_an_owner_file_that_was_removed_by_hand_comes_back(tmp_path: Path) -> None:
    lock = quick(tmp_path)
    lock.acquire()
    (tmp_path / OWNER).unlink()
    lock.confirm()
    assert (tmp_path / OWNER).exists()
    lock.release()


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("src.checkpoints.locking.os.link", refuse)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.confirm()
    with pytest.raises(CheckpointError, match=IN_USE):
        FolderLock(tmp_path).acquire()
    lock.release()
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FLOCK, refuse_with(errno.EACCES))
    with pytest.raises(CheckpointError, match=f"can't lock {tmp_path}: Permission denied"):
        FolderLock(tmp_path).acquire()


def test_of_many_that_start_at_once_one_has_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FLOCK, lambda *_: None)
    got: list[FolderLock] = []
    locks = [FolderLock(tmp_path) for _ in range(8)]
    ready = threading.Barrier(len(locks))

    def attempt(lock: FolderLock) -> None:
        ready.wait()
        try:
            lock.acquire()
            got.append(lock)
        except CheckpointError:
            pass

    threads = [threading.Thread(target=attempt, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].confirm()
    got[0].release()


# --- a store under a lock that is lost


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CheckpointStore]:
    store = CheckpointStore(tmp_path, "w", 1)
    store.lock()
    yield store
    store.unlock()


def test_two_trainers_without_locks_never_remove_each_others_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FLOCK, lambda *_: None)
    first, second = (CheckpointStore(tmp_path, "w", 1) for _ in range(2))
    first.lock()
    save(first, 10, make_network())
    before = names(tmp_path)
    for change in (
        second.lock,
        second.newest,
        second.set_aside,
        lambda: save(second, 5, make_network()),
    ):
        with pytest.raises(CheckpointError, match=IN_USE):
            change()
    assert names(tmp_path) == before
    first.unlock()


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_store_that_lost_the_folder_changes_nothing(
    moment: str, store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 10, make_network())
    before = {path.name: path.read_bytes() for path in tmp_path.glob("w-*")}
    if moment == "before":
        owner_elsewhere(tmp_path)
    else:

        def write(path: Path, entries: Any) -> Any:
            owner_elsewhere(tmp_path)
            return write_ckpt(path, entries)

        monkeypatch.setattr("src.checkpoints.store.write_ckpt", write)
    with pytest.raises(CheckpointError, match="elsewhere has taken over"):
        save(store, 20, make_network())
    for change in (store.set_aside, store.newest):
        (tmp_path / "w-1_1.ckpt").touch()  # a leftover, as it seems
        with pytest.raises(CheckpointError, match="elsewhere has taken over"):
            change()
    (tmp_path / "w-1_1.ckpt").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("w-*")} == before
    assert not any(tmp_path.glob(".*writing*"))


def test_stores_of_one_process_can_share_a_lock(store: CheckpointStore, tmp_path: Path) -> None:
    other = CheckpointStore(tmp_path, "w", 1)
    with pytest.raises(CheckpointError, match=IN_USE):
        save(other, 1, make_network())
    other.share_lock(store)
    save(other, 1, make_network())
