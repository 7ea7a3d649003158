"""Launches of real processes: all end well, or one fails, is reported and ends the others."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from src.process.ports import free_port
from src.process.stop import StopFlag
from src.ranks import supervisor as supervisor_module
from src.ranks.placement import NOT_MET_EXIT_CODE
from src.ranks.supervisor import ATTEMPTS, Launch, Supervisor, describe
from tests.process.test_child_processes import is_gone

ROOT = Path(__file__).resolve().parents[2]
# Each rank's script begins with: its number, the test's folder, and a handler of stop signals.
PREAMBLE = """
import os, signal, socket, sys, time
from pathlib import Path
from src.process.child_processes import end_with_parent
from src.ranks.heartbeat import FOLDER_VARIABLE, heartbeat_writer_from, last_heartbeat
from src.ranks.placement import INDEX_VARIABLE
if "OMPI_COMM_WORLD_SIZE" in os.environ:
    end_with_parent()  # as online_train.py does
folder = Path(sys.argv[1])
index = int(os.environ.get(INDEX_VARIABLE) or os.environ.get("OMPI_COMM_WORLD_RANK") or -1)
is_scheduler = os.environ.get("MS_ROLE") == "MS_SCHED"
name = "scheduler" if is_scheduler else str(index)
def end_well(number, frame):
    (folder / f"stopped_{name}").write_text(signal.Signals(number).name)
    os._exit(0)
signal.signal(signal.SIGTERM, end_well)
signal.signal(signal.SIGUSR1, end_well)
(folder / f"pid_{name}").write_text(str(os.getpid()))
def start_heartbeat(rank, rounds):
    writer = heartbeat_writer_from(dict(os.environ), index)
    writer.rank, writer.rounds = rank, rounds
    heartbeats = Path(os.environ[FOLDER_VARIABLE])
    while (last := last_heartbeat(heartbeats, index)) is None or last.rank != rank:
        time.sleep(0.01)
    return writer
def wait_for(*names, seconds=20):
    until = time.monotonic() + seconds
    while not all((folder / name).exists() for name in names):
        assert time.monotonic() < until, names
        time.sleep(0.01)
"""
pytestmark = pytest.mark.timeout(60)
BY_EACH_LAUNCHER = [pytest.param(False, id="network"), pytest.param(True, id="mpirun")]


def launch_of(folder: Path, body: str, size: int = 2, by_mpirun: bool = False) -> Launch:
    """Ranks that run a script; they don't communicate, so there is no scheduler."""
    mpirun = ["mpirun", "-n", str(size), "--tag-output", "--bind-to", "none", "--oversubscribe"]
    if os.geteuid() == 0:
        mpirun.append("--allow-run-as-root")
    return Launch(
        command=[sys.executable, "-c", PREAMBLE + textwrap.dedent(body), str(folder)],
        size=size,
        local=size,
        mpirun=mpirun if by_mpirun else (),
        meeting_seconds=45,
        hang_seconds=0.0,
        logs=folder / "logs",
    )


def run(launch: Launch, flag: StopFlag | None = None) -> int:
    return Supervisor(launch, flag or StopFlag()).run()


def pid(folder: Path, name: str) -> int:
    return int((folder / f"pid_{name}").read_text())


def errors(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR)


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 2.0)  # most tests wait for it in full
    caplog.set_level(logging.INFO, logger="src.ranks.supervisor")


# --- all goes well


@pytest.mark.parametrize("by_mpirun", BY_EACH_LAUNCHER)
def test_ranks_that_end_well_are_a_launch_that_ended_well(
    by_mpirun: bool,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = "print('rank', index, 'of the test'); print('aside', file=sys.stderr)"
    assert run(launch_of(tmp_path, body, 3, by_mpirun)) == 0
    assert errors(caplog) == ""
    out, err = capfd.readouterr()
    prefixed = [f"[worker {index}] rank {index} of the test" for index in range(3)]
    assert sorted(line for line in out.splitlines() if "of the test" in line) == prefixed
    for index in range(3):
        assert f"[worker {index}] aside" in err
        log = (tmp_path / "logs" / f"worker_{index}.log").read_text().splitlines()
        assert sorted(log) == ["aside", f"rank {index} of the test"]


def test_all_that_a_rank_printed_before_its_end_is_in_its_log(tmp_path: Path) -> None:
    """The last of it still stands in the pipe when the process has ended."""
    body = "sys.stdout.write(''.join(f'{n}\\n' for n in range(30_000)))"
    assert run(launch_of(tmp_path, body)) == 0
    for index in range(2):
        log = (tmp_path / "logs" / f"worker_{index}.log").read_text().splitlines()
        assert log == [str(number) for number in range(30_000)]


def test_a_grandchild_that_holds_the_output_does_not_hold_the_launch_up(tmp_path: Path) -> None:
    body = """
        import subprocess
        child = subprocess.Popen(["sleep", "60"])
        (folder / f"child_{index}").write_text(str(child.pid))
        os._exit(0)
    """
    began = time.monotonic()
    try:
        assert run(launch_of(tmp_path, body)) == 0
        assert time.monotonic() - began < 20
    finally:
        for index in range(2):
            os.kill(int((tmp_path / f"child_{index}").read_text()), signal.SIGKILL)


def test_each_rank_gets_its_number_and_where_the_scheduler_is(tmp_path: Path) -> None:
    body = """
        names = (INDEX_VARIABLE, "MS_ROLE", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_WORKER_NUM")
        (folder / f"got_{index}").write_text(" ".join(os.environ[name] for name in names))
    """
    launch = dataclasses.replace(
        launch_of(tmp_path, body, size=5), local=2, scheduler_host="192.0.2.9", scheduler_port=811
    )
    assert run(launch) == 0
    got = {path.name: path.read_text() for path in tmp_path.glob("got_*")}
    assert got == {
        "got_0": "0 MS_WORKER 192.0.2.9 811 5",
        "got_1": "1 MS_WORKER 192.0.2.9 811 5",
    }


def test_without_a_scheduler_a_rank_is_alone(tmp_path: Path) -> None:
    assert run(launch_of(tmp_path, "sys.exit('MS_ROLE' in os.environ)", size=1)) == 0


# --- one fails


@pytest.mark.parametrize("by_mpirun", BY_EACH_LAUNCHER)
def test_a_rank_that_fails_ends_the_others_and_is_named_with_its_last_lines(
    by_mpirun: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
        if index == 1:
            wait_for("pid_0", "pid_2")
            for number in range(50):
                print("line", number, flush=True)
            sys.exit(3)
        time.sleep(60)
    """
    began = time.monotonic()
    assert run(launch_of(tmp_path, body, 3, by_mpirun)) == 1
    assert time.monotonic() - began < 30
    logged = errors(caplog)
    assert "worker 1 has failed: exit code 3" in logged
    assert str(tmp_path / "logs" / "worker_1.log") in logged
    assert "line 49" in logged and "line 38" in logged and "line 37" not in logged
    assert "worker 0" not in logged and "worker 2" not in logged
    assert is_gone(pid(tmp_path, "0")) and is_gone(pid(tmp_path, "2"))


@pytest.mark.parametrize("by_mpirun", BY_EACH_LAUNCHER)
def test_a_rank_that_is_killed_ends_the_others_and_the_signal_is_named(
    by_mpirun: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
        if index == 1:
            wait_for("pid_0")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    """
    assert run(launch_of(tmp_path, body, 2, by_mpirun)) == 1
    assert "worker 1 has failed: killed by SIGKILL" in errors(caplog)
    assert is_gone(pid(tmp_path, "0"))


def test_a_rank_that_has_met_the_others_is_named_by_its_rank_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
        start_heartbeat(rank=1 - index, rounds=0)
        if index == 0:
            wait_for("pid_1")
            sys.exit(1)
        time.sleep(60)
    """
    assert run(launch_of(tmp_path, body)) == 1
    assert "worker 0 (rank 1) has failed: exit code 1" in errors(caplog)


def test_ranks_that_fail_one_after_the_other_are_all_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that fails last may be the cause: the others see a lost connection at once."""
    body = """
        wait_for("pid_0", "pid_1")
        time.sleep(0.3 * (1 - index))
        sys.exit(3 + index)
    """
    assert run(launch_of(tmp_path, body)) == 1
    assert "worker 0 has failed: exit code 3" in errors(caplog)
    assert "worker 1 has failed: exit code 4" in errors(caplog)


def test_a_rank_that_ignores_sigterm_is_killed_when_another_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 1.0)
    body = """
        if index == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (folder / "ignores").touch()
            time.sleep(60)
        wait_for("ignores")
        sys.exit(1)
    """
    began = time.monotonic()
    assert run(launch_of(tmp_path, body)) == 1
    assert time.monotonic() - began < 10
    assert is_gone(pid(tmp_path, "1"), seconds=0.1)


def test_a_rank_that_does_not_end_with_the_others_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "END_TOGETHER_SECONDS", 1.0)
    assert run(launch_of(tmp_path, "time.sleep(60 if index == 1 else 0)")) == 1
    assert errors(caplog) == "worker 1 did not end with the others"
    assert is_gone(pid(tmp_path, "1"), seconds=0.1)


# --- stopping


def set_when(flag: StopFlag, folder: Path, *names: str) -> threading.Thread:
    """Sets the flag once all ranks have said that they are there."""

    def wait() -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until and not all((folder / name).exists() for name in names):
            time.sleep(0.01)
        flag.set("test")

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("by_mpirun", BY_EACH_LAUNCHER)
def test_a_stop_reaches_all_ranks_and_ends_the_launch_well(
    by_mpirun: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flag = StopFlag()
    thread = set_when(flag, tmp_path, "pid_0", "pid_1", "pid_2")
    assert run(launch_of(tmp_path, "time.sleep(60)", 3, by_mpirun), flag) == 0
    thread.join()
    number = "SIGUSR1" if by_mpirun else "SIGTERM"
    for index in range(3):
        assert (tmp_path / f"stopped_{index}").read_text() == number
    assert "test: stopping all ranks" in caplog.text
    assert errors(caplog) == ""


def test_a_rank_that_ignores_the_stop_is_killed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_SECONDS", 1.0)
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 0.5)
    body = """
        if index == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (folder / "ignores").touch()
        time.sleep(60)
    """
    flag = StopFlag()
    thread = set_when(flag, tmp_path, "pid_0", "ignores")
    assert run(launch_of(tmp_path, body), flag) == 1
    thread.join()
    assert (tmp_path / "stopped_0").exists()
    assert "worker 1 did not stop within 1 s" in errors(caplog)
    assert is_gone(pid(tmp_path, "1"), seconds=0.1)


@pytest.mark.parametrize("by_mpirun", BY_EACH_LAUNCHER)
def test_a_stop_that_comes_before_the_ranks_can_hear_it_is_no_failure(
    by_mpirun: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        (folder / f"deaf_{index}").touch()
        time.sleep(60)
    """
    flag = StopFlag()
    thread = set_when(flag, tmp_path, "deaf_0", "deaf_1")
    assert run(launch_of(tmp_path, body, 2, by_mpirun), flag) == 0
    thread.join()
    assert errors(caplog) == ""
    assert "test: stopped before the ranks had met" in caplog.text
    assert is_gone(pid(tmp_path, "0")) and is_gone(pid(tmp_path, "1"))


def test_a_rank_that_had_met_the_others_and_dies_of_the_stop_has_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        start_heartbeat(rank=index, rounds=1)
        (folder / f"deaf_{index}").touch()
        time.sleep(60)
    """
    flag = StopFlag()
    thread = set_when(flag, tmp_path, "deaf_0", "deaf_1")
    assert run(launch_of(tmp_path, body), flag) == 1
    thread.join()
    assert "worker 0 (rank 0) has failed: killed by SIGTERM" in errors(caplog)


def test_a_stop_while_the_scheduler_starts_starts_no_rank(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launch = with_scheduler(tmp_path, "", "")
    launch = dataclasses.replace(launch, command=launch_of(tmp_path, "time.sleep(60)").command)
    flag = StopFlag()
    thread = set_when(flag, tmp_path, "pid_scheduler")
    assert run(launch, flag) == 0
    thread.join()
    assert errors(caplog) == ""
    assert not (tmp_path / "pid_0").exists()
    assert is_gone(pid(tmp_path, "scheduler"), seconds=0.1)


# --- hanging

ROUNDS = """
    heartbeat = start_heartbeat(rank=index, rounds=1)
    wait_for("pid_0", "pid_1")
"""


@pytest.mark.parametrize("by_mpirun", BY_EACH_LAUNCHER)
def test_a_rank_that_hangs_while_the_others_wait_is_named(
    by_mpirun: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = f"""{ROUNDS}
    if index == 0:
        heartbeat.rounds = 2
    time.sleep(60)
    """
    launch = dataclasses.replace(launch_of(tmp_path, body, 2, by_mpirun), hang_seconds=3.0)
    assert run(launch) == 1
    logged = errors(caplog)
    assert "worker 1 (rank 1) has hung for 3 s, the others wait for it" in logged
    assert is_gone(pid(tmp_path, "0")) and is_gone(pid(tmp_path, "1"))


def test_a_process_that_is_stopped_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = f"""{ROUNDS}
    if index == 1:
        print("the last line", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
    """
    launch = dataclasses.replace(launch_of(tmp_path, body), hang_seconds=3.0)
    assert run(launch) == 1
    logged = errors(caplog)
    assert "worker 1 (rank 1) has sent no heartbeat for 3 s" in logged
    assert logged.endswith("    the last line")
    assert is_gone(pid(tmp_path, "1"), seconds=0.1)


@pytest.mark.parametrize("by_mpirun", BY_EACH_LAUNCHER)
def test_a_rank_that_has_ended_is_not_taken_for_one_that_hangs(
    by_mpirun: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = ROUNDS + "    time.sleep(6 * index)"
    launch = dataclasses.replace(launch_of(tmp_path, body, 2, by_mpirun), hang_seconds=3.0)
    assert run(launch) == 0
    assert errors(caplog) == ""


def test_a_rank_that_is_silent_before_it_has_met_the_others_does_not_hang(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MindSpore holds the interpreter while it waits there."""
    body = """
        import ctypes
        start_heartbeat(rank=-1, rounds=0)
        ctypes.PyDLL(None).sleep(5)
    """
    launch = dataclasses.replace(launch_of(tmp_path, body), hang_seconds=2.0)
    assert run(launch) == 0
    assert errors(caplog) == ""


# --- the scheduler, and meeting

SCHEDULER = """
    if is_scheduler:
        server = socket.create_server(("127.0.0.1", int(os.environ["MS_SCHED_PORT"])))
        (folder / "listens").touch()
        {scheduler}
    assert (folder / "listens").exists(), "the ranks start when the scheduler listens"
    {rank}
"""


def with_scheduler(folder: Path, scheduler: str, rank: str) -> Launch:
    body = SCHEDULER.format(scheduler=scheduler, rank=rank)
    return dataclasses.replace(
        launch_of(folder, body),
        scheduler_host="127.0.0.1",
        scheduler_port=free_port(),
        starts_scheduler=True,
        chooses_port=True,
    )


def test_ranks_start_when_the_scheduler_listens_and_nothing_of_it_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launch = with_scheduler(
        tmp_path,
        "wait_for('done_0', 'done_1'); sys.exit(0)",
        "(folder / f'done_{index}').touch()",
    )
    assert run(launch) == 0
    assert f"the scheduler listens on 127.0.0.1:{launch.scheduler_port}" in caplog.text
    assert is_gone(pid(tmp_path, "scheduler"), seconds=0.1)


def test_a_scheduler_that_outlives_its_workers_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 0.5)
    assert run(with_scheduler(tmp_path, "time.sleep(60)", "pass")) == 0
    assert is_gone(pid(tmp_path, "scheduler"), seconds=0.1)


@pytest.mark.parametrize(
    ("end", "named"),
    [
        ("sys.exit(4)", "exit code 4"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("sys.exit(0)", "exit code 0"),
    ],
)
def test_a_scheduler_that_is_lost_ends_the_ranks_and_is_named(
    end: str,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 1.0)
    rank = (
        "start_heartbeat(rank=index, rounds=1); (folder / f'met_{index}').touch(); time.sleep(60)"
    )
    launch = with_scheduler(tmp_path, f"wait_for('met_0', 'met_1'); {end}", rank)
    began = time.monotonic()
    assert run(launch) == 1
    assert time.monotonic() - began < 15
    assert f"the scheduler has ended ({named})" in errors(caplog)
    assert is_gone(pid(tmp_path, "0")) and is_gone(pid(tmp_path, "1"))


def test_a_scheduler_that_is_lost_before_the_ranks_have_met_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 1.0)
    scheduler = """
        if not (folder / "again").exists():
            wait_for("pid_0", "pid_1")
            time.sleep(1)  # by then the ranks wait
            (folder / "again").touch()
            sys.exit(0)
        time.sleep(60)
    """
    rank = "sys.exit(0) if (folder / 'again').exists() else time.sleep(60)"
    assert run(with_scheduler(tmp_path, scheduler.strip(), rank)) == 0
    assert "the scheduler has ended (exit code 0)" in errors(caplog)
    assert caplog.text.count("trying again on port") == 1


def test_ranks_that_did_not_meet_are_started_again_on_another_port(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rank = f"""
    port = os.environ["MS_SCHED_PORT"]
    with open(folder / f"ports_{{index}}", "a") as ports:
        ports.write(port + "\\n")
    sys.exit({NOT_MET_EXIT_CODE} if open(ports.name).read().count("\\n") == 1 else 0)
    """
    launch = with_scheduler(tmp_path, "time.sleep(60)", rank.strip())
    assert run(launch) == 0
    ports = (tmp_path / "ports_0").read_text().split()
    assert len(set(ports)) == 2
    assert int(ports[0]) == launch.scheduler_port
    assert "the ranks did not meet, trying again on port" in caplog.text


def test_ranks_whose_wait_the_kernel_has_ended_did_not_meet_either(tmp_path: Path) -> None:
    rank = """
    if not (folder / "again").exists():
        wait_for("pid_0", "pid_1")
        if index == 1:
            signal.alarm(1)
        time.sleep(60)
    """
    launch = with_scheduler(tmp_path, "time.sleep(60)", rank.strip())
    flag = StopFlag()

    def allow() -> None:
        time.sleep(1.5)
        (tmp_path / "again").touch()

    thread = threading.Thread(target=allow)
    thread.start()
    assert run(launch, flag) == 0
    thread.join()


def test_ranks_that_never_meet_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "CAUSE_SECONDS", 0.0)
    rank = f"(folder / f'{{os.getpid()}}.tried').touch(); sys.exit({NOT_MET_EXIT_CODE})"
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 0.5)
    assert run(with_scheduler(tmp_path, "time.sleep(60)", rank)) == 1
    assert errors(caplog) == "the 2 ranks did not meet"
    assert caplog.text.count("trying again on port") == ATTEMPTS - 1


def test_ranks_that_others_must_find_are_not_moved_to_another_port(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launch = with_scheduler(tmp_path, "time.sleep(60)", f"sys.exit({NOT_MET_EXIT_CODE})")
    assert run(dataclasses.replace(launch, chooses_port=False)) == 1
    assert errors(caplog) == "the 2 ranks did not meet"
    assert "trying again" not in caplog.text


def test_a_rank_that_fails_for_another_reason_is_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rank = f"wait_for('pid_0', 'pid_1'); sys.exit({NOT_MET_EXIT_CODE} if index else 2)"
    assert run(with_scheduler(tmp_path, "time.sleep(60)", rank)) == 1
    assert "worker 0 has failed: exit code 2" in errors(caplog)
    assert "trying again" not in caplog.text


def test_a_scheduler_that_does_not_start_is_tried_again_and_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launch = dataclasses.replace(
        with_scheduler(tmp_path, "", ""), command=launch_of(tmp_path, "sys.exit(1)").command
    )
    assert run(launch) == 1
    assert errors(caplog) == "the 2 ranks did not meet"
    assert not (tmp_path / "pid_0").exists()


# --- nothing outlives the launcher

LAUNCHER = """
import pickle, sys
from src.process.stop import StopFlag, stop_on_signals
from src.ranks.supervisor import Supervisor
flag = StopFlag()
stop_on_signals(flag)
sys.exit(Supervisor(pickle.loads(open(sys.argv[1], "rb").read()), flag).run())
"""


def start_launcher(folder: Path, launch: Launch, *names: str) -> subprocess.Popen[bytes]:
    """A process that runs a launch, once its processes have said that they are there."""
    (folder / "launch").write_bytes(pickle.dumps(launch))
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(folder / "launch")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 30
    while not all((folder / f"pid_{name}").exists() for name in names):
        assert time.monotonic() < until, "they did not start"
        time.sleep(0.02)
    return process


def test_nothing_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    launch = with_scheduler(tmp_path, "time.sleep(60)", "time.sleep(60)")
    with start_launcher(tmp_path, launch, "scheduler", "0", "1") as process:
        process.kill()
    for name in ("scheduler", "0", "1"):
        assert is_gone(pid(tmp_path, name))


@pytest.mark.parametrize("is_killed_itself", [False, True])
def test_no_rank_of_mpirun_outlives_it_or_a_launcher_that_is_killed(
    is_killed_itself: bool, tmp_path: Path
) -> None:
    body = '(folder / "mpirun").write_text(str(os.getppid())); time.sleep(60)'
    launch = launch_of(tmp_path, body, by_mpirun=True)
    with start_launcher(tmp_path, launch, "0", "1") as process:
        if is_killed_itself:
            time.sleep(0.2)
            os.kill(int((tmp_path / "mpirun").read_text()), signal.SIGKILL)
            assert process.wait(20) == 1
        process.kill()
    for name in ("0", "1"):
        assert is_gone(pid(tmp_path, name))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("by_mpirun", BY_EACH_LAUNCHER)
def test_a_signal_to_the_launcher_stops_all_ranks_well(
    by_mpirun: bool, number: signal.Signals, tmp_path: Path
) -> None:
    launch = launch_of(tmp_path, "time.sleep(60)", by_mpirun=by_mpirun)
    with start_launcher(tmp_path, launch, "0", "1") as process:
        process.send_signal(number)
        assert process.wait(30) == 0
    assert (tmp_path / "stopped_0").exists() and (tmp_path / "stopped_1").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "still running"),
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-9, "killed by SIGKILL"),
        (137, "killed by SIGKILL"),
        (-14, "killed by SIGALRM"),
        (255, "exit code 255"),
    ],
)
def test_an_exit_code_is_put_in_words(code: int | None, words: str) -> None:
    assert describe(code) == words
