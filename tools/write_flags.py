"""Writes docs/flags.md from the parsers of the scripts: ``make flags``."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from src.config import make_parser as make_trainer_parser
from src.config import read_defaults
from src.process.exit_handlers import keep_modules_until_exit
from src.process.files import atomic_write_bytes
from src.process.logs import configure_logging
from src.ranks.launch import make_parser as make_launch_parser

logger = logging.getLogger("write_flags")

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "flags.md"
COMMAND = "make flags"
STEPS = ("kafka_client", "producer", "consumer", "online_train")
EXAMPLES = (
    "make_sample",
    "process_data",
    "quickstart",
    "report",
    "evaluate",
    "dead_letters",
    "warm_start",
    "export_vocabulary",
    "published",
    "export_mindir",
    "local_services",
    "serve",
)
INTRODUCTION = f"""# Flags

`{COMMAND}` writes this page from the parsers of the scripts.

A flag that several scripts share must have the same value in each. The defaults of shared flags and
of `online_train.py` are in `default_config.yaml`. The YAML file of `--config_path` overrides them,
and a flag overrides both. A list is written `--deep_layer_dim 64,32`, a switch `--sparse` or
`--sparse=False`.

A flag that is given twice has its last value. In every path `~` means your home folder, in the YAML
file too; `$HOME` is refused there. Wrong usage ends a script with one line and exit code 2. For a
YAML file that line names file, line and key.
"""


@dataclass(frozen=True)
class Flag:
    """An argument of a script.

    Attributes:
        name: Its long form, or the name of a positional argument.
        default: Its default as text; empty for none.
        meaning: Its help text and its choices.
    """

    name: str
    default: str
    meaning: str


def main() -> int:
    """Writes the page."""
    configure_logging()
    atomic_write_bytes(PATH, page().encode())
    logger.info("wrote %s", PATH.relative_to(ROOT))
    keep_modules_until_exit()
    return 0


def page() -> str:
    """The content of docs/flags.md."""
    parts = [INTRODUCTION, "## The steps\n", table(step_flags(), "scripts")]
    for kind in ("mpirun", "network"):
        parser = make_launch_parser(kind)
        parts += [f"## `{parser.prog}`\n", usage_of(parser), table({"": list(flags_of(parser))})]
    parts.append("## Examples\n")
    for name in EXAMPLES:
        parts += example_section(name)
    return "\n".join(parts)


def step_flags() -> dict[str, list[Flag]]:
    """The flags of the four scripts of the steps, by script."""
    flags = {}
    for name in STEPS[:-1]:
        parser = parser_of(importlib.import_module(name).parse_args)
        flags[name] = list(flags_of(parser))
    defaults = read_defaults()
    flags[STEPS[-1]] = list(flags_of(make_trainer_parser(defaults), defaults.values))
    return flags


def example_section(name: str) -> list[str]:
    """The heading, first line, usage and table of a script in examples/."""
    module = importlib.import_module(f"examples.{name}")
    parser = parser_of(module.parse_args)
    summary = (module.__doc__ or "").splitlines()[0]
    parts = [f"### `examples/{name}.py`\n", f"{summary}\n"]
    if parser.usage:
        parts.append(usage_of(parser))
    commands = commands_of(parser)
    if commands:
        by_command = {name: list(flags_of(command)) for name, command in commands.items()}
        return [*parts, table(by_command, "commands")]
    return [*parts, table({"": list(flags_of(parser))})]


def parser_of(parse_args: Callable[[Sequence[str]], object]) -> argparse.ArgumentParser:
    """The parser that a script's function uses; it is asked for help, which is not printed."""
    found: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser) -> None:
        found.append(parser)

    with patch.object(argparse.ArgumentParser, "print_help", keep), suppress(SystemExit):
        parse_args(["--help"])
    return found[0]


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a script's commands, by command; empty without commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def flags_of(
    parser: argparse.ArgumentParser, defaults: Mapping[str, Any] | None = None
) -> Iterator[Flag]:
    """The arguments of a parser except --help.

    Args:
        parser: Has the arguments.
        defaults: Defaults that are not the parser's own, by key.
    """
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        separator = " " if action.nargs in ("+", "*") else ","
        default = shown((defaults or {}).get(action.dest, action.default), separator)
        name = action.option_strings[-1] if action.option_strings else shown(action.metavar)
        is_required = action.required and action.default is None
        yield Flag(
            name=name or action.dest,
            default="required" if is_required else default,
            meaning=meaning_of(action, default),
        )


def meaning_of(action: argparse.Action, default: str) -> str:
    """The help text without the default at its end, which has a column of its own."""
    text = (action.help or "") % {**vars(action), "default": default}
    for end in (f"(default: {default})", f"({default})"):
        text = text[: -len(end)].rstrip() if text.endswith(end) else text
    choices = list(action.choices or ())
    if choices:
        text += f"; {'one of' if len(choices) > 1 else 'only'} {shown(choices, ', ')}"
    return text


def shown(value: object, separator: str = ",") -> str:
    """A value as a user would write it; a path inside the project is relative to its root."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return separator.join(map(str, value))
    if isinstance(value, Path) and ROOT in value.parents:
        return str(value.relative_to(ROOT))
    return str(value)


def usage_of(parser: argparse.ArgumentParser) -> str:
    """The usage line that a script has in place of argparse's own."""
    return f"`{parser.usage}`\n"


def table(flags: Mapping[str, Sequence[Flag]], title: str = "") -> str:
    """A table of flags; one that several owners have alike is one row.

    Args:
        flags: Flags by owner, a script or a command.
        title: Heading of the owners' column; empty for no such column.
    """
    owners: dict[Flag, list[str]] = {}
    for owner, own in flags.items():
        for flag in own:
            owners.setdefault(flag, []).append(owner)
    heading = ["flag", "default", title, "meaning"] if title else ["flag", "default", "meaning"]
    lines = [row(heading), row(["---"] * len(heading))]
    for flag, names in owners.items():
        cells = [f"`{flag.name}`", flag.default, flag.meaning]
        if flag.default not in ("", "required"):
            cells[1] = f"`{flag.default}`"
        if title:
            cells.insert(2, "all" if len(names) == len(flags) else ", ".join(names))
        lines.append(row(cells))
    return "".join(lines)


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    sys.exit(main())
