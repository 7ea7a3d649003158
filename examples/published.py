"""Lists, checks and pins the versions that online_train.py has published.

    python examples/published.py list --publish_path versions
    python examples/published.py verify --publish_path versions
    python examples/published.py rollback --to 4200 --publish_path versions
    python examples/published.py resume --publish_path versions

``list`` has a line for each version, oldest first; the one that is served is marked with a star.
``verify`` reads every file, checks its checksum, and rebuilds each version from its chain.
``rollback`` makes servers go back to a version. A trainer goes on publishing meanwhile, but servers
stay at this version until ``resume``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.process.flags import FlagParser, path_flag
from src.process.logs import configure_logging
from src.process.output import OutputError, say
from src.publishing.chain import Chain, read_current
from src.publishing.folder import FoundVersion, VersionFolder
from src.publishing.rebuild import verify
from src.publishing.version_format import Manifest, PublishingError

logger = logging.getLogger("published")

TITLES = ("", "version", "kind", "published (UTC)", "rows", "AUC", "log loss", "calibration", "KiB")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = FlagParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = FlagParser(add_help=False)
    shared.add_argument(
        "--publish_path", type=path_flag, required=True, help="folder of the versions"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[shared], help="a line for each version")
    commands.add_parser("verify", parents=[shared], help="check every file of every version")
    command = commands.add_parser(
        "rollback", parents=[shared], help="serve an older version until resume"
    )
    command.add_argument("--to", required=True, help="the version, or the name of its folder")
    commands.add_parser("resume", parents=[shared], help="serve the newest version again")
    return parser.parse_args(argv)


def table(versions: Sequence[FoundVersion], current: Chain | None) -> Iterator[str]:
    """The lines of ``list``."""
    served = current.names[-1] if current is not None else ""
    rows = [TITLES, *(_cells(found, served) for found in versions)]
    widths = [max(len(row[place]) for row in rows if len(row) > 2) for place in range(len(TITLES))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
    if current is not None and current.pinned:
        yield f"pinned to {served}: resume serves the newest version again"


def _cells(found: FoundVersion, served: str) -> tuple[str, ...]:
    manifest = found.manifest
    if manifest is None:
        return "", f"{found.name}: {found.fault}"
    scores = manifest.progressive
    size = sum(entry.bytes for entry in manifest.files.values())
    return (
        "*" if found.name == served else "",
        found.name,
        manifest.kind,
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest.published_ms / 1000)),
        str(scores["rows"]),
        *(_shown(scores[name]) for name in ("auc", "log_loss", "calibration")),
        str(size // 1024),
    )


def _shown(score: float | None) -> str:
    return "?" if score is None else f"{score:.4f}"


def verify_all(folder: VersionFolder) -> int:
    """Says what is wrong with each version; returns how many are broken."""
    versions = folder.versions()
    readable = [found.manifest for found in versions if found.manifest is not None]
    faults = {found.name: found.fault for found in versions if found.manifest is None}
    for manifest, fault in verify(folder.directory, readable):
        if fault:
            faults[manifest.name] = fault
    for name, fault in faults.items():
        logger.error("%s: %s", name, fault)
    logger.info("%d versions, %d of them broken", len(versions), len(faults))
    return len(faults)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, or 1 after an error or where a version is broken."""
    arguments = parse_args(argv)
    configure_logging()
    folder = VersionFolder(arguments.publish_path)
    try:
        if arguments.command == "verify":
            return 1 if verify_all(folder) else 0
        if arguments.command == "list":
            say(*table(folder.versions(), read_current(folder.directory)))
        elif arguments.command == "rollback":
            _say(folder.roll_back(arguments.to), "until resume")
        else:
            _say(folder.resume(), "and what comes after it")
    except (OutputError, PublishingError) as error:
        logger.error("%s", error)
        return 1
    return 0


def _say(manifest: Manifest | None, until: str) -> None:
    if manifest is None:
        logger.info("nothing is pinned: the newest version is served")
    else:
        logger.info("version %s is served, %s", manifest.name, until)


if __name__ == "__main__":
    sys.exit(main())
