"""What holds for the flags of every script: paths, wrong usage, --help."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import kafka_client
from examples import local_services
from examples.live import __main__ as live
from examples.services.common import ROOT
from src.config import make_parser as make_trainer_parser
from src.config import read_defaults
from src.process.flags import FlagParser
from src.ranks.launch import make_parser as make_launch_parser
from tools.write_flags import EXAMPLES, STEPS, commands_of, parser_of

# The flags with a text that is no path. A new flag with a text belongs here or is a path.
NO_PATHS = {
    "address",
    "bootstrap_servers",
    "ckpt_prefix",
    "cross_fields",
    "dataset_name",
    "group_id",
    "host",
    "hosts",
    "metrics_host",
    "model_name",
    "namespace",
    "sched_host",
    "start",
    "to",
    "topic",
    "version",
}
HEAVY_MODULES = ("mindpandas", "mindspore", "sklearn", "yr")  # each takes seconds to import


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parsers of all scripts and of their commands."""
    for kind in ("mpirun", "network"):
        yield kind, make_launch_parser(kind)
    yield STEPS[-1], make_trainer_parser(read_defaults())
    modules = {name: name for name in STEPS[:-1]}
    modules.update({name: f"examples.{name}" for name in EXAMPLES})
    for name, module in modules.items():
        parser = parser_of(importlib.import_module(module).parse_args)
        yield name, parser
        for command, own in commands_of(parser).items():
            yield f"{name} {command}", own


PARSERS = dict(parsers())
TEXT_FLAGS = [
    pytest.param(action, id=f"{name}: {action.dest}")
    for name, parser in PARSERS.items()
    for action in parser._actions
    if not action.choices and action.nargs != 0 and action.dest not in NO_PATHS
]


def accepted(action: argparse.Action, text: str) -> object:
    """What a flag makes of a text; None if it refuses it."""
    try:
        return action.type(text) if callable(action.type) else text
    except (argparse.ArgumentTypeError, ValueError):
        return None


@pytest.mark.parametrize("name", PARSERS)
def test_every_script_has_the_parser_whose_errors_are_one_line(name: str) -> None:
    assert isinstance(PARSERS[name], FlagParser)
    assert not PARSERS[name].allow_abbrev


@pytest.mark.parametrize("action", TEXT_FLAGS)
def test_every_path_expands_a_tilde(
    action: argparse.Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = accepted(action, "~/a b")
    assert found is None or str(found) == "/home/me/a b"
    if found is not None:
        for refused in ("~no_such_user/x", "$HOME/x", " ", "a "):
            assert accepted(action, refused) is None
        assert accepted(action, "") in (None, "")


@pytest.mark.parametrize("action", TEXT_FLAGS)
def test_no_number_is_infinite(action: argparse.Action) -> None:
    for text in ("nan", "inf", "-inf", "1e999"):
        found = accepted(action, text)
        assert found is None or str(found) == text  # a path of that name


def scripts() -> list[str]:
    return [f"{name}.py" for name in STEPS] + [f"examples/{name}.py" for name in EXAMPLES]


TWO_RUNS = """
import contextlib, runpy, sys
script, *heavy = sys.argv[1:]
sys.modules.update(dict.fromkeys(heavy))  # they can't be imported
for flag in ("--help", "--no_such_flag=1"):
    sys.argv = [script, flag]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print("exit code", end.code, flush=True)
"""


@pytest.mark.parametrize("script", scripts())
def test_help_needs_no_heavy_module_and_wrong_usage_is_one_line(script: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TWO_RUNS, str(ROOT / script), *HEAVY_MODULES],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (line,) = ended.stderr.splitlines()
    assert ": error: " in line
    assert ended.stdout.startswith("usage: ")
    assert [line for line in ended.stdout.splitlines() if line.startswith("exit code")] == [
        "exit code 0",
        "exit code 2",
    ]


@pytest.mark.parametrize("value", ["-1", "-1e-3", "-.5", "-1,2"])
def test_a_value_that_begins_with_a_minus_sign_is_a_value(value: str) -> None:
    parser = FlagParser()
    parser.add_argument("--x")
    assert parser.parse_args(["--x", value]).x == value


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--num_partitions=0"], "must be from 1 to 10000, not 0"),
        (["--num_partitions=99999999999"], "must be from 1 to 10000, not 99999999999"),
        (["--replication_factor=40000"], "must be from 1 to 32767, not 40000"),
        (["--replication_factor=two"], "expected a whole number, not 'two'"),
    ],
)
def test_numbers_that_kafka_cannot_take_are_refused(
    argv: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        kafka_client.parse_args(argv)
    assert stopped.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999", "0", "-1", "9092x"])
def test_a_port_that_cannot_be_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        local_services.parse_args(["status", f"--kafka_port={port}"])
    assert stopped.value.code == 2
    assert "argument --kafka_port: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        live.parse_args([f"--port={port}"])
    assert "argument --port: " in capsys.readouterr().err
