"""docs/flags.md is what ``make flags`` writes; test_step_flags.py compares it with the parsers."""

from __future__ import annotations

from tools.write_flags import COMMAND, PATH, Flag, page, table


def test_the_page_is_what_its_command_writes() -> None:
    assert page() == PATH.read_text(encoding="utf-8"), f"docs/flags.md is stale, run: {COMMAND}"


def test_equal_flags_of_several_scripts_share_a_row() -> None:
    rate, topic = Flag("--rate", "0", "rows/s"), Flag("--topic", "t", "a|b")
    assert table({"one": [topic], "two": [topic, rate]}, "scripts").splitlines()[2:] == [
        "| `--topic` | `t` | all | a\\|b |",
        "| `--rate` | `0` | two | rows/s |",
    ]
