"""The two launchers of many ranks, behind ``mpirun_dist_online_train.sh`` and ``run_dist_…``."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from src.config import ConfigError, load_config
from src.process.logs import configure_logging
from src.process.ports import free_port, is_local
from src.process.stop import StopFlag, stop_on_signals
from src.ranks.placement import cpu_is_meant
from src.ranks.supervisor import Launch, Supervisor

logger = logging.getLogger("launch")

ROOT = Path(__file__).resolve().parents[2]
LOCAL_MEETING_SECONDS = 25  # they need 6 to 10 s; MindSpore itself gives up after 30 s
REMOTE_MEETING_SECONDS = 600  # people start the launchers of several machines one by one
HANG_SECONDS = 20.0  # MindSpore's own patience on the CPU is 30 s
MPIRUN_SCRIPT = "mpirun_dist_online_train.sh"
NETWORK_SCRIPT = "run_dist_online_train.sh"
PID_FILE = "launcher.pid"
DETACHED_LOG = "launcher.log"


class LaunchError(ValueError):
    """The ranks can't be started as asked; one line says why."""


def parse_args(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the kind of launch, its arguments and flags, and behind ``--`` the trainer's flags."""
    own, trainer_flags = list(argv), []
    if "--" in own:
        at = own.index("--")
        own, trainer_flags = own[:at], own[at + 1 :]
    kind, *rest = own
    is_mpi = kind == "mpirun"
    names = (
        "RANK_SIZE LOCAL_HOST_IP" if is_mpi else "WORKER_NUM SCHED_HOST SCHED_PORT LOCAL_HOST_IP"
    )
    script = MPIRUN_SCRIPT if is_mpi else NETWORK_SCRIPT
    parser = argparse.ArgumentParser(
        prog=script,
        usage=f"bash {script} {names} [flags] [-- flags of online_train.py]",
        description="Trains on several ranks, which take a shard of the stream each.",
        allow_abbrev=False,
    )
    positional = parser.add_argument
    if is_mpi:
        positional("size", metavar="RANK_SIZE", type=_count, help="how many ranks")
    else:
        positional("size", metavar="WORKER_NUM", type=_count, help="how many ranks, on all hosts")
        positional("sched_host", metavar="SCHED_HOST", type=_address, help="of the scheduler")
        positional("sched_port", metavar="SCHED_PORT", type=_port, help="of the scheduler")
    positional("address", metavar="LOCAL_HOST_IP", type=_address, help="--address of the trainer")
    flag = parser.add_argument
    flag("--detach", action="store_true", help=f"run in the background, see logs/{PID_FILE}")
    flag("--logs", type=Path, default=Path("logs"), help="folder of the logs (./logs)")
    flag("--meeting_seconds", type=_count, help="how long the ranks may take to meet")
    flag(
        "--hang_seconds",
        type=_seconds,
        default=HANG_SECONDS,
        help="after which a rank hangs; 0: off",
    )
    if is_mpi:
        flag("--hosts", default="", help="host:ranks,... for mpirun -H; default: this machine")
    else:
        flag("--local_workers", type=_count, help="how many of the ranks run here; default: all")
    arguments = parser.parse_args(rest)
    arguments.kind = kind
    return arguments, trainer_flags


def launch_of(arguments: argparse.Namespace, trainer_flags: Sequence[str]) -> Launch:
    """Works out what to run.

    Raises:
        ConfigError, SystemExit: online_train.py would refuse one of its flags.
        LaunchError: The launch itself is not possible.
    """
    flags = [f"--address={arguments.address}", *trainer_flags]
    config = load_config(flags)
    command = [sys.executable, str(ROOT / "online_train.py"), *flags]
    if arguments.size == 1:
        return _launch(arguments, command, local=1)
    if arguments.kind == "mpirun":
        return _mpi_launch(arguments, command, cpu_is_meant(config.device_target))
    local = arguments.local_workers or arguments.size
    if local > arguments.size:
        raise LaunchError(f"--local_workers is {local}, but there are {arguments.size} in all")
    here = is_local(arguments.sched_host)
    return _launch(
        *(arguments, command, local),
        scheduler_host=arguments.sched_host,
        scheduler_port=arguments.sched_port,
        starts_scheduler=here,
        chooses_port=here and local == arguments.size,
    )


def _mpi_launch(arguments: argparse.Namespace, command: list[str], on_cpu: bool) -> Launch:
    if shutil.which("mpirun") is None:
        raise LaunchError("mpirun is not installed (Debian: openmpi-bin)")
    mpirun = ["mpirun", "-n", str(arguments.size), "--tag-output", "--bind-to", "none"]
    if os.geteuid() == 0:
        mpirun.append("--allow-run-as-root")
    if arguments.hosts:
        told = ("MS_SCHED_HOST", "MS_SCHED_PORT", "PATH", "PYTHONPATH")
        mpirun += ["-H", arguments.hosts, *(part for name in told for part in ("-x", name))]
    else:
        mpirun.append("--oversubscribe")
    if not on_cpu:
        return _launch(arguments, command, arguments.size, mpirun=mpirun)
    if not is_local(arguments.address):
        raise LaunchError(f"LOCAL_HOST_IP {arguments.address} is no address of this machine")
    return _launch(
        *(arguments, command, arguments.size),
        scheduler_host=arguments.address,
        scheduler_port=free_port(),
        starts_scheduler=True,
        chooses_port=True,
        mpirun=mpirun,
    )


def _launch(
    arguments: argparse.Namespace,
    command: Sequence[str],
    local: int,
    scheduler_host: str = "",
    scheduler_port: int = 0,
    starts_scheduler: bool = False,
    chooses_port: bool = False,
    mpirun: Sequence[str] = (),
) -> Launch:
    seconds = LOCAL_MEETING_SECONDS if chooses_port else REMOTE_MEETING_SECONDS
    return Launch(
        command=command,
        size=arguments.size,
        local=local,
        scheduler_host=scheduler_host,
        scheduler_port=scheduler_port,
        starts_scheduler=starts_scheduler,
        chooses_port=chooses_port,
        mpirun=mpirun,
        meeting_seconds=arguments.meeting_seconds or seconds,
        hang_seconds=arguments.hang_seconds,
        logs=arguments.logs,
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected seconds, not {text!r}")


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"expected a port, not {text!r}")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an IPv4 address, not {text!r}") from None


def detach(argv: Sequence[str], logs: Path) -> int:
    """Starts the same launch in the background and returns its process number."""
    logs.mkdir(parents=True, exist_ok=True)
    again = [argument for argument in argv if argument != "--detach"]
    with open(logs / DETACHED_LOG, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "src.ranks.launch", *again],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (logs / PID_FILE).write_text(f"{process.pid}\n")
    return process.pid


def main(argv: Sequence[str]) -> int:
    """Runs a launch to its end; 0 where every rank has ended well."""
    configure_logging()
    arguments, trainer_flags = parse_args(argv)
    try:
        launch = launch_of(arguments, trainer_flags)
    except (ConfigError, LaunchError) as error:
        logger.error("%s", error)
        return 2
    if arguments.detach:
        print(f"{detach(argv, arguments.logs)} runs in the background, see {arguments.logs}")
        return 0
    if launch.mpirun and launch.scheduler_host:
        logger.info("MindSpore has no MPI on the CPU: mpirun's ranks become a dynamic network")
    flag = StopFlag()
    stop_on_signals(flag)
    return Supervisor(launch, flag).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
