from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import consumer
import kafka_client
import producer
from examples.services.common import ROOT
from src.config import read_defaults
from src.process.flags import FlagParser


class _Parser(Exception):  # noqa: N818 - it carries a parser, nothing went wrong
    pass


def flags_of(parse_args: Callable[[Sequence[str]], Any]) -> dict[str, object]:
    """A script's flags and their defaults."""

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Parser(parser)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parser) as caught:
        patch.setattr(FlagParser, "parse_args", stop)
        parse_args([])
    parser = caught.value.args[0]
    return {a.option_strings[-1]: a.default for a in parser._actions if a.dest != "help"}


def test_table_of_flags_holds_every_flag_of_every_script_with_its_default() -> None:
    def text(value: object) -> str:
        if value is None:
            return ""
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    config_keys = {f"--{key}": value for key, value in read_defaults().values.items()}
    actual = {
        "kafka_client": flags_of(kafka_client.parse_args),
        "producer": flags_of(producer.parse_args),
        "consumer": flags_of(consumer.parse_args),
        "online_train": {**config_keys, "--config_path": None},
    }
    page = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    table: dict[str, dict[str, str]] = {script: {} for script in actual}
    for flag, default, scripts in re.findall(
        r"^\| `(--\w+)` \| (?:`(.*?)`)? \| ([\w, ]+) \|", page.split("\n## ")[1], re.MULTILINE
    ):
        for script in actual if scripts == "all" else scripts.split(", "):
            table[script][flag] = default
    assert table == {
        script: {flag: text(default) for flag, default in flags.items()}
        for script, flags in actual.items()
    }
