"""Which versions are served: ``current.json`` names a full version and the deltas after it.

It is replaced in one piece. The versions that it names are whole and durable before that. They are
neither changed nor removed while it names them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.process.files import atomic_write_bytes
from src.publishing.version_format import (
    DELTA,
    FORMAT,
    FULL,
    Manifest,
    PublishingError,
    is_version_name,
    read_manifest,
)

CURRENT = "current.json"


@dataclass(frozen=True)
class Chain:
    """A full version and the deltas after it.

    Attributes:
        names: Of the versions' folders, the full one first. The last one is what is served.
        pinned: Whether a rollback has fixed it, so that a trainer leaves it alone.
    """

    names: Sequence[str]
    pinned: bool = False


def read_current(directory: Path, name: str = CURRENT) -> Chain | None:
    """What ``current.json`` names; None where nothing was published yet.

    Raises:
        PublishingError: It can't be read, or holds something else.
    """
    path = directory / name
    try:
        fields = json.loads(path.read_bytes())
        names = fields["chain"]
        if fields["format"] != FORMAT:
            raise PublishingError(f"{path} is of another format, expected {FORMAT}")
        if not names or not all(is_version_name(version) for version in names):
            raise ValueError(f"no chain of versions: {names!r}")
        return Chain(tuple(names), bool(fields["pinned"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PublishingError(f"{path}: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise PublishingError(f"{path} is damaged: {error}") from None


def write_current(directory: Path, chain: Chain, name: str = CURRENT) -> None:
    """Makes a chain the one that is served, durably.

    Raises:
        PublishingError: It could not be written.
    """
    fields = {"format": FORMAT, "chain": list(chain.names), "pinned": chain.pinned}
    try:
        atomic_write_bytes(directory / name, json.dumps(fields).encode())
    except OSError as error:
        raise PublishingError(f"can't write {directory / name}: {error.strerror}") from None


def read_chain(directory: Path, chain: Chain) -> list[Manifest]:
    """The manifests of a chain's versions, the full one first.

    Raises:
        PublishingError: One is missing or damaged, or does not follow the one before it.
    """
    manifests: list[Manifest] = []
    for name in chain.names:
        manifest = read_manifest(directory / name)
        check_link(manifests[-1] if manifests else None, manifest)
        manifests.append(manifest)
    return manifests


def check_link(before: Manifest | None, manifest: Manifest) -> None:
    """Refuses a version that does not follow the one before it.

    Args:
        before: The version before it; None where there is none.
        manifest: The version.

    Raises:
        PublishingError: It is a delta of another version.
    """
    if manifest.kind == FULL:
        follows = manifest.previous is None and manifest.base == manifest.name
    else:
        follows = (
            manifest.kind == DELTA
            and before is not None
            and manifest.previous == before.name
            and manifest.base == before.base
        )
    if not follows:
        place = "nothing" if before is None else before.name
        raise PublishingError(
            f"version {manifest.name} is a {manifest.kind} after {manifest.previous}, "
            f"and can't follow {place}"
        )
