"""The two launchers' arguments, and the launches that follow from them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.config import ConfigError
from src.process.ports import free_port
from src.ranks import launch as launch_module
from src.ranks.launch import (
    DETACHED_LOG,
    HANG_SECONDS,
    LOCAL_MEETING_SECONDS,
    PID_FILE,
    REMOTE_MEETING_SECONDS,
    LaunchError,
    launch_of,
    main,
    parse_args,
)
from src.ranks.supervisor import Launch
from tests.process.test_child_processes import is_gone

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = "203.0.113.77"  # RFC 5737: belongs to nobody
MPIRUN = ["mpirun", "4", "127.0.0.1"]
NETWORK = ["network", "4", "127.0.0.1", "8118", "127.0.0.1"]
CPU = ["--", "--device_target=CPU"]


def launch(*argv: str) -> Launch:
    return launch_of(*parse_args(argv))


@pytest.fixture
def has_mpirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments are read alike whether or not mpirun is installed."""
    if shutil.which("mpirun") is None:
        program = tmp_path / "bin" / "mpirun"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


# --- arguments


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["mpirun"], "RANK_SIZE, LOCAL_HOST_IP"),
        (["mpirun", "2"], "LOCAL_HOST_IP"),
        (["mpirun", "0", "127.0.0.1"], "RANK_SIZE: expected a whole number of at least 1, not '0'"),
        (["mpirun", "-1", "127.0.0.1"], "-1"),
        (["mpirun", "two", "127.0.0.1"], "RANK_SIZE: .* not 'two'"),
        (["mpirun", "2", "localhost"], "LOCAL_HOST_IP: expected an IPv4 address, not 'localhost'"),
        (["mpirun", "2", "127.0.0.1", "3"], "unknown argument 3"),
        ([*MPIRUN, "--device_target=CPU"], "unknown argument --device_target"),
        ([*MPIRUN, "--local_workers=1"], "unknown argument --local_workers"),
        ([*MPIRUN, "--meeting_seconds=0"], "--meeting_seconds"),
        ([*MPIRUN, "--hang_seconds=soon"], "--hang_seconds"),
        ([*MPIRUN, "--hang_seconds=-1"], "--hang_seconds"),
        ([*MPIRUN, "--hang_seconds=nan"], "--hang_seconds"),
        (["network"], "WORKER_NUM, SCHED_HOST, SCHED_PORT, LOCAL_HOST_IP"),
        (["network", "2", "127.0.0.1", "8118"], "LOCAL_HOST_IP"),
        (["network", "2.5", "127.0.0.1", "8118", "127.0.0.1"], "WORKER_NUM: .* not '2.5'"),
        (["network", "2", "sched", "8118", "127.0.0.1"], "SCHED_HOST: .* not 'sched'"),
        (["network", "2", "::1", "8118", "127.0.0.1"], "SCHED_HOST: .* not '::1'"),
        (["network", "2", "127.0.0.1", "0", "127.0.0.1"], "SCHED_PORT: expected a port, not '0'"),
        (["network", "2", "127.0.0.1", "65536", "127.0.0.1"], "SCHED_PORT: .* not '65536'"),
        (["network", "2", "127.0.0.1", "http", "127.0.0.1"], "SCHED_PORT: .* not 'http'"),
        (["network", "2", "127.0.0.1", "8118", "1.2.3"], "LOCAL_HOST_IP: .* not '1.2.3'"),
        ([*NETWORK, "--local_workers=0"], "--local_workers"),
        ([*NETWORK, "--hosts=a:1"], "unknown argument --hosts"),
    ],
)
def test_wrong_arguments_end_with_one_line_that_has_the_usage(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_args(argv)
    assert end.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    script, names = {
        "mpirun": ("mpirun_dist_online_train.sh", "RANK_SIZE LOCAL_HOST_IP"),
        "network": ("run_dist_online_train.sh", "WORKER_NUM SCHED_HOST SCHED_PORT LOCAL_HOST_IP"),
    }[argv[0]]
    usage = f"(usage: bash {script} {names} [flags] [-- flags of online_train.py])"
    assert error.startswith(f"{script}: error: ") and error.endswith(usage)
    assert re.search(complaint, error), error


@pytest.mark.parametrize("script", ["mpirun_dist_online_train.sh", "run_dist_online_train.sh"])
def test_each_script_without_arguments_shows_its_usage_from_any_folder(
    script: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        ["bash", str(ROOT / script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert f"(usage: bash {script} " in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [MPIRUN, NETWORK])
def test_flags_after_two_dashes_are_the_trainers(argv: list[str]) -> None:
    arguments, flags = parse_args([*argv, "--detach", "--", "--max_steps=50", "--logs", "--", "x"])
    assert flags == ["--max_steps=50", "--logs", "--", "x"]
    assert arguments.detach
    assert arguments.logs == Path("logs")


def test_what_is_not_given_has_a_default() -> None:
    arguments, flags = parse_args(NETWORK)
    assert flags == []
    assert (arguments.detach, arguments.local_workers) == (False, None)
    assert arguments.hang_seconds == HANG_SECONDS


# --- what is run


@pytest.mark.parametrize("argv", [MPIRUN, NETWORK])
@pytest.mark.usefixtures("has_mpirun")
def test_each_rank_runs_the_trainer_with_its_address_and_flags(argv: list[str]) -> None:
    found = launch(*argv[:-1], "127.0.0.2", *CPU, "--max_steps=50")
    assert list(found.command) == [
        sys.executable,
        str(ROOT / "online_train.py"),
        "--address=127.0.0.2",
        "--device_target=CPU",
        "--max_steps=50",
    ]
    assert (found.size, found.logs, found.hang_seconds) == (4, Path("logs"), HANG_SECONDS)


def test_a_network_of_this_machine_has_its_scheduler_here_and_may_change_its_port() -> None:
    found = launch(*NETWORK)
    assert (found.scheduler_host, found.scheduler_port) == ("127.0.0.1", 8118)
    assert (found.starts_scheduler, found.chooses_port) == (True, True)
    assert (found.local, list(found.mpirun)) == (4, [])
    assert found.meeting_seconds == LOCAL_MEETING_SECONDS


def test_with_ranks_elsewhere_the_scheduler_keeps_its_port() -> None:
    found = launch(*NETWORK, "--local_workers=3")
    assert (found.size, found.local) == (4, 3)
    assert (found.starts_scheduler, found.chooses_port) == (True, False)
    assert found.meeting_seconds == REMOTE_MEETING_SECONDS


def test_a_scheduler_elsewhere_is_not_started_here() -> None:
    found = launch("network", "4", ELSEWHERE, "8118", "127.0.0.1", "--local_workers=2")
    assert (found.scheduler_host, found.scheduler_port) == (ELSEWHERE, 8118)
    assert (found.starts_scheduler, found.chooses_port) == (False, False)
    assert found.meeting_seconds == REMOTE_MEETING_SECONDS


@pytest.mark.usefixtures("has_mpirun")
def test_on_the_cpu_mpiruns_ranks_get_a_scheduler() -> None:
    found = launch(*MPIRUN, *CPU)
    assert found.scheduler_host == "127.0.0.1"
    assert found.scheduler_port > 0
    assert (found.starts_scheduler, found.chooses_port) == (True, True)
    assert list(found.mpirun[:3]) == ["mpirun", "-n", "4"]
    assert "--tag-output" in found.mpirun and "--oversubscribe" in found.mpirun
    assert ("--allow-run-as-root" in found.mpirun) is (os.geteuid() == 0)


@pytest.mark.usefixtures("has_mpirun")
def test_on_the_gpu_mpirun_is_all_that_the_ranks_need() -> None:
    found = launch(*MPIRUN, "--", "--device_target=GPU")
    assert (found.scheduler_host, found.starts_scheduler) == ("", False)
    assert found.environment(0, "heartbeats").keys() == {
        "ONLINE_TRAIN_HEARTBEATS",
        "ONLINE_TRAIN_MEETING_SECONDS",
    }


@pytest.mark.usefixtures("has_mpirun")
def test_hosts_go_to_mpirun_and_get_the_schedulers_address() -> None:
    mpirun = list(launch(*MPIRUN, "--hosts=one:2,two:2", *CPU).mpirun)
    assert mpirun[mpirun.index("-H") + 1] == "one:2,two:2"
    exported = [mpirun[at + 1] for at, part in enumerate(mpirun) if part == "-x"]
    assert {"MS_SCHED_HOST", "MS_SCHED_PORT"} <= set(exported)
    assert "--oversubscribe" not in mpirun


@pytest.mark.parametrize("argv", [["mpirun", "1"], ["network", "1", ELSEWHERE, "8118"]])
def test_a_launch_of_one_is_a_trainer_that_is_alone(argv: list[str]) -> None:
    found = launch(*argv, "127.0.0.1")
    assert (found.size, found.local) == (1, 1)
    assert (found.scheduler_host, found.starts_scheduler, list(found.mpirun)) == ("", False, [])
    assert "MS_WORKER_NUM" not in found.environment(0, "heartbeats")


@pytest.mark.parametrize("argv", [MPIRUN, NETWORK])
@pytest.mark.usefixtures("has_mpirun")
def test_flags_of_the_launch_are_kept(argv: list[str], tmp_path: Path) -> None:
    flags = ["--meeting_seconds=7", "--hang_seconds=0", f"--logs={tmp_path}"]
    found = launch(*argv, *flags)
    assert (found.meeting_seconds, found.hang_seconds, found.logs) == (7, 0.0, tmp_path)


# --- what is refused


def test_more_ranks_here_than_in_all_are_refused() -> None:
    with pytest.raises(LaunchError, match="--local_workers is 5, but there are 4 in all"):
        launch(*NETWORK, "--local_workers=5")


@pytest.mark.parametrize("argv", [MPIRUN, NETWORK, ["mpirun", "1", "127.0.0.1"]])
def test_flags_that_the_trainer_would_refuse_are_refused_before_anything_starts(
    argv: list[str],
) -> None:
    for flag in ("--batch_size=0", "--bach_size=10"):
        with pytest.raises(SystemExit, match="2"):
            launch(*argv, "--", flag)
    with pytest.raises(ConfigError, match="nowhere.yaml: No such file"):
        launch(*argv, "--", "--config_path=nowhere.yaml")


@pytest.mark.usefixtures("has_mpirun")
def test_an_address_of_another_machine_cannot_have_the_scheduler_here() -> None:
    with pytest.raises(LaunchError, match=f"LOCAL_HOST_IP {ELSEWHERE}"):
        launch("mpirun", "4", ELSEWHERE, *CPU)


def test_a_machine_without_mpirun_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="mpirun is not installed.*openmpi-bin"):
        launch(*MPIRUN, *CPU)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--local_workers=5"], "--local_workers is 5"),
        (["--", "--config_path=nowhere.yaml"], "nowhere.yaml: No such file"),
    ],
)
def test_a_launch_that_is_refused_starts_nothing_and_returns_2(
    more: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*NETWORK, *more]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert named in line
    assert list(tmp_path.iterdir()) == []


# --- in the background


@pytest.fixture
def detached(tmp_path: Path) -> Iterator[int]:
    """The process id that the script has written."""
    no_engine = "127.0.0.3"  # one that another test has started must not be found
    names = ["1", "127.0.0.1", str(free_port()), no_engine, "--detach"]
    flags = ["--ckpt_path=ckpt", "--bootstrap_servers=127.0.0.1:1", "--device_target=CPU"]
    began = time.monotonic()
    ended = subprocess.run(
        ["bash", str(ROOT / launch_module.NETWORK_SCRIPT), *names, "--logs=here", "--", *flags],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    pid = int((tmp_path / "here" / PID_FILE).read_text())
    try:
        assert ended.returncode == 0
        assert ended.stdout == f"{pid} runs in the background, see here\n"
        assert time.monotonic() - began < 10
        yield pid
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def test_a_detached_launch_goes_on_in_a_session_of_its_own_and_is_stopped_by_its_pid(
    detached: int, tmp_path: Path
) -> None:
    command = Path(f"/proc/{detached}/cmdline").read_text().split("\0")
    assert "--detach" not in command and "src.ranks.launch" in command
    assert os.getsid(detached) == detached, "it must outlive the terminal"
    log = tmp_path / "here" / "worker_0.log"
    give_up_at = time.monotonic() + 30
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < give_up_at, (tmp_path / "here" / DETACHED_LOG).read_text()
        time.sleep(0.05)
    os.kill(detached, signal.SIGTERM)
    assert is_gone(detached, seconds=30)
    logged = (tmp_path / "here" / DETACHED_LOG).read_text()
    assert "[worker 0] " in logged
    assert "SIGTERM: stopping all ranks" in logged
