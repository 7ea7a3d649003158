"""Lists and counts the bad rows of a topic, and sends corrected ones back.

    python examples/dead_letters.py list > bad.jsonl
    python examples/dead_letters.py count
    python examples/dead_letters.py replay bad.jsonl

``list`` writes one JSON object per line: origin (topic:partition:offset), column, reason and time.
The original row is in ``value``, or in ``value_base64`` where it is not UTF-8. ``replay`` reads
such lines with corrected values. It sends each row to its partition, and only once, however often
it is run. A row that is still bad is refused. Replayed rows are no longer listed and counted.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.cluster.broker import SourceError
from src.cluster.broker_list import ClusterConfigError
from src.cluster.settings import ClientSettings, client_settings
from src.config import add_shared_flags
from src.dead_letters.dead_letters import DeadLetter, read_dead_letters, time_text
from src.dead_letters.replay import Correction, replay
from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.process.output import OutputError, say
from src.rows.criteo import VALUE_FORMATS

logger = logging.getLogger("dead_letters")


class FileError(ValueError):
    """A file or one of its lines can't be read; the message is one line."""


def to_json(dead_letter: DeadLetter) -> str:
    """A dead letter as one line of JSON."""
    fields: dict[str, str | None] = {
        "origin": dead_letter.origin,
        "column": dead_letter.column,
        "reason": dead_letter.reason,
        "time": time_text(dead_letter.time),
    }
    try:
        fields["value"] = None if dead_letter.value is None else dead_letter.value.decode()
    except UnicodeDecodeError:
        fields["value_base64"] = base64.b64encode(dead_letter.value or b"").decode()
    return json.dumps(fields)


def correction_from_json(line: bytes) -> Correction:
    """Reads a line as ``to_json`` writes it.

    Raises:
        FileError: The line has another form.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FileError(f"not JSON: {error}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("origin"), str):
        raise FileError("no JSON object with an origin")
    if ("value" in fields) == ("value_base64" in fields):
        raise FileError("there must be either a value or a value_base64")
    return Correction(fields["origin"], _value(fields))


def _value(fields: dict[str, Any]) -> bytes | None:
    is_text = "value" in fields
    text = fields["value" if is_text else "value_base64"]
    if text is None and is_text:
        return None
    if not isinstance(text, str):
        raise FileError("the value is no text")
    try:
        return text.encode() if is_text else base64.b64decode(text, validate=True)
    except ValueError as error:
        raise FileError(f"the value can't be read: {error}") from None


def read_corrections(path: Path) -> tuple[list[Correction], list[str]]:
    """The corrections of a file, and the faults of its other lines.

    Raises:
        FileError: The file can't be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    corrections, faults = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            corrections.append(correction_from_json(line))
        except FileError as error:
            faults.append(f"{path}, line {number}: {error}")
    return corrections, faults


def count_table(dead_letters: Sequence[DeadLetter]) -> list[str]:
    """The number of dead letters by column and kind of reason, the most frequent first."""
    counts = Counter(
        (dead_letter.column, dead_letter.reason.split(": ")[0]) for dead_letter in dead_letters
    )
    in_order = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    rows = [(str(count), column, kind) for (column, kind), count in in_order]
    rows = [("rows", "column", "reason"), *rows, (str(len(dead_letters)), "all", "")]
    widths = [max(len(row[place]) for row in rows) for place in range(2)]
    return [f"{row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = FlagParser(add_help=False)
    add_shared_flags(shared, "bootstrap_servers", "kafka_config", "topic")
    shared.add_argument(
        "--value_format", choices=VALUE_FORMATS, default="tsv", help="wire format of the rows"
    )
    options: dict[str, Any] = {
        "parents": [shared],
        "formatter_class": argparse.ArgumentDefaultsHelpFormatter,
    }
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="one JSON object for each bad row", **options)
    commands.add_parser("count", help="a table by column and reason", **options)
    command = commands.add_parser("replay", help="send corrected rows", **options)
    command.add_argument(
        "file", type=path_flag, help="lines as list writes them, with corrected values"
    )
    command.add_argument(
        "--dry_run", action="store_true", help="show what would be done, and do nothing"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, or 1 after an error or where a row was refused."""
    arguments = parse_args(argv)
    configure_logging()
    try:
        cluster = client_settings(arguments.bootstrap_servers, arguments.kafka_config)
    except ClusterConfigError as error:
        logger.error("%s", error)
        return 2
    cluster.log_notes(logger)
    try:
        if arguments.command == "replay":
            return _replay(arguments, cluster)
        dead_letters = read_dead_letters(cluster, arguments.topic)
        is_list = arguments.command == "list"
        for line in map(to_json, dead_letters) if is_list else count_table(dead_letters):
            if not say(line):
                break
    except (SourceError, FileError, OutputError) as error:
        logger.error("%s", error)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted; run the replay again to continue it")
        return 1
    return 0


def _replay(arguments: argparse.Namespace, cluster: ClientSettings) -> int:
    corrections, faults = read_corrections(arguments.file)
    result = replay(
        cluster,
        arguments.topic,
        corrections,
        arguments.value_format,
        arguments.dry_run,
    )
    refused = faults + [f"{origin}: {reason}" for origin, reason in result.refused]
    for fault in refused:
        logger.error("refused: %s", fault)
    logger.info(
        "%s %d rows, %d were replayed before, %d refused",
        "would replay" if arguments.dry_run else "replayed",
        len(result.replayed),
        len(result.replayed_before),
        len(refused),
    )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
