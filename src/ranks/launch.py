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
from dataclasses import replace
from pathlib import Path

from src.cluster.settings import client_settings
from src.config import ConfigError, load_config
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.process.ports import free_port, is_local
from src.process.stop import StopFlag, stop_on_signals
from src.ranks.placement import cpu_is_meant
from src.ranks.supervisor import Launch, Supervisor
from src.ranks.surroundings import clear_for_a_launch, other_launcher

logger = logging.getLogger("launch")

ROOT = Path(__file__).resolve().parents[2]
LOCAL_MEETING_SECONDS = 25  # ranks need 6 to 10 s; MindSpore's own time-out is 30 s
REMOTE_MEETING_SECONDS = 600  # people start the launchers of several machines one by one
HANG_SECONDS = 20.0  # below MindSpore's own time-out on the CPU, 30 s
MPIRUN_SCRIPT = "mpirun_dist_online_train.sh"
NETWORK_SCRIPT = "run_dist_online_train.sh"
PID_FILE = "launcher.pid"
DETACHED_LOG = "launcher.log"


class LaunchError(ValueError):
    """The ranks can't be started with these arguments; one line says why."""


def parse_args(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the kind of launch, its arguments and flags, and after ``--`` the trainer's flags."""
    own, trainer_flags = list(argv), []
    if "--" in own:
        at = own.index("--")
        own, trainer_flags = own[:at], own[at + 1 :]
    kind, *rest = own
    arguments = make_parser(kind).parse_args(rest)
    arguments.kind = kind
    return arguments, trainer_flags


def make_parser(kind: str) -> argparse.ArgumentParser:
    """The parser of one of the two scripts.

    Args:
        kind: "mpirun" or "network".
    """
    is_mpi = kind == "mpirun"
    script = MPIRUN_SCRIPT if is_mpi else NETWORK_SCRIPT
    names = (
        "RANK_SIZE LOCAL_HOST_IP" if is_mpi else "WORKER_NUM SCHED_HOST SCHED_PORT LOCAL_HOST_IP"
    )
    parser = FlagParser(
        prog=script,
        usage=f"bash {script} {names} [flags] [-- flags of online_train.py]",
        description="Trains on several ranks. Each takes one shard of the stream.",
    )
    add = parser.add_argument
    if is_mpi:
        add("size", metavar="RANK_SIZE", type=_count, help="number of ranks")
    else:
        add("size", metavar="WORKER_NUM", type=_count, help="number of ranks on all hosts together")
        add("sched_host", metavar="SCHED_HOST", type=_address, help="the scheduler's IPv4 address")
        add("sched_port", metavar="SCHED_PORT", type=_port, help="the scheduler's port")
    add(
        "address",
        metavar="LOCAL_HOST_IP",
        type=_address,
        help="--address of online_train.py on this host",
    )
    add("--detach", action="store_true", help=f"run in the background, see logs/{PID_FILE}")
    add(
        "--logs",
        type=path_flag,
        default=Path("logs"),
        help="folder of the logs (default: %(default)s)",
    )
    add(
        "--meeting_seconds",
        type=_count,
        help=f"how long the ranks may take to meet, seconds (default: {LOCAL_MEETING_SECONDS} "
        f"if the launcher may choose the scheduler's port, else {REMOTE_MEETING_SECONDS})",
    )
    add(
        "--hang_seconds",
        type=_seconds,
        default=HANG_SECONDS,
        help="seconds without progress after which a rank counts as hung; 0 for never "
        "(default: %(default)s)",
    )
    if is_mpi:
        add("--hosts", default="", help="host:ranks,... for mpirun -H (default: this host only)")
    else:
        add("--local_workers", type=_count, help="number of ranks on this host (default: all)")
    return parser


def launch_of(arguments: argparse.Namespace, trainer_flags: Sequence[str]) -> Launch:
    """Works out what to run.

    Raises:
        ConfigError, SystemExit: online_train.py would refuse one of its flags.
        LaunchError: The launch itself is not possible.
    """
    flags = [f"--address={arguments.address}", *trainer_flags]
    config = load_config(flags)
    client_settings(config.bootstrap_servers, config.kafka_config)  # refused here, not by each rank
    launch = Launch(
        command=[sys.executable, str(ROOT / "online_train.py"), *flags],
        size=arguments.size,
        local=arguments.size,
        meeting_seconds=arguments.meeting_seconds or REMOTE_MEETING_SECONDS,
        hang_seconds=arguments.hang_seconds,
        logs=arguments.logs,
    )
    if arguments.size == 1:
        return launch
    if arguments.kind == "mpirun":
        launch = _mpirun_launch(launch, arguments, cpu_is_meant(config.device_target))
    else:
        launch = _network_launch(launch, arguments)
    if launch.chooses_port and not arguments.meeting_seconds:
        return replace(launch, meeting_seconds=LOCAL_MEETING_SECONDS)
    return launch


def _network_launch(launch: Launch, arguments: argparse.Namespace) -> Launch:
    """The launch as a dynamic network of MindSpore's."""
    local = arguments.local_workers or launch.size
    if local > launch.size:
        raise LaunchError(f"--local_workers is {local}, but there are {launch.size} in all")
    is_here = is_local(arguments.sched_host)
    return replace(
        launch,
        local=local,
        scheduler_host=arguments.sched_host,
        scheduler_port=arguments.sched_port,
        starts_scheduler=is_here,
        chooses_port=is_here and local == launch.size,
    )


def _mpirun_launch(launch: Launch, arguments: argparse.Namespace, on_cpu: bool) -> Launch:
    """The launch under ``mpirun``; on the CPU its ranks need a scheduler besides."""
    if shutil.which("mpirun") is None:
        raise LaunchError("mpirun is not installed (Debian: openmpi-bin)")
    mpirun = ["mpirun", "-n", str(launch.size), "--tag-output", "--bind-to", "none"]
    if os.geteuid() == 0:
        mpirun.append("--allow-run-as-root")
    if arguments.hosts:
        mpirun += ["-H", arguments.hosts]
        for name in ("MS_SCHED_HOST", "MS_SCHED_PORT", "PATH", "PYTHONPATH"):
            mpirun += ["-x", name]
    else:
        mpirun.append("--oversubscribe")
    if not on_cpu:
        return replace(launch, mpirun=mpirun)
    if not is_local(arguments.address):
        raise LaunchError(f"LOCAL_HOST_IP {arguments.address} is no address of this machine")
    return replace(
        launch,
        mpirun=mpirun,
        scheduler_host=arguments.address,
        scheduler_port=free_port(),
        starts_scheduler=True,
        chooses_port=True,
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
    """Runs a launch to its end; returns 0 if every rank has ended well."""
    configure_logging()
    arguments, trainer_flags = parse_args(argv)
    try:
        fault = other_launcher(os.environ)
        if fault is not None:
            raise LaunchError(fault)
        launch = launch_of(arguments, trainer_flags)
    except (ConfigError, LaunchError) as error:
        logger.error("%s", error)
        return 2
    clear_for_a_launch(os.environ)
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
