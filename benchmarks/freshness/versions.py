"""The versions that a run has published."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from pathlib import Path

from src.publishing.version_format import DELTA, Manifest, PublishingError, read_manifest


def versions_of(folder: Path) -> list[Manifest]:
    """All versions in a folder, oldest first."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(PublishingError):  # one that is just being written
            found.append(read_manifest(path))
    return sorted(found, key=lambda manifest: (manifest.published_ms, manifest.version))


def delta_bytes(versions: Sequence[Manifest]) -> float | None:
    """The median size of a delta; None where there is none."""
    sizes = [
        sum(entry.bytes for entry in manifest.files.values())
        for manifest in versions
        if manifest.kind == DELTA
    ]
    return statistics.median(sizes) if sizes else None
