"""Where a probe's time goes, from its sending to the answer that has learnt from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.freshness.events import Events
from examples.live.probes import Probe
from src.publishing.version_format import Manifest

PARTS = {
    "window": "in the topic and in a window that is not closed",
    "channel": "until the trainer has the window",
    "batch": "until the batch is whole and its step begins",
    "step": "the training step",
    "publish": "until the next version is due, and is written",
    "answer": "until the service has found and loaded it, and the next request",
}


def median_parts(
    probes: Sequence[Probe], folder: Path, versions: Sequence[Manifest]
) -> dict[str, float]:
    """The median of each part, in seconds.

    Args:
        probes: Those of a run.
        folder: Has the files of the timed scripts.
        versions: All versions of the run, oldest first.
    """
    files = ("sent", "received", "begun", "trained")
    events = [Events(folder / name) for name in files]
    times = [found for probe in probes if (found := _times(probe, events, versions)) is not None]
    if not times:
        return {}
    medians = np.median(np.diff(np.array(times), axis=1), axis=0)
    return dict(zip(PARTS, medians.tolist()))


def _times(
    probe: Probe, events: Sequence[Events], versions: Sequence[Manifest]
) -> list[float] | None:
    """When a probe was sent, and when each part was over; None where something is missing."""
    if probe.partition is None or probe.learnt_at is None:
        return None
    reached = [kind.reached(probe.partition, probe.offset) for kind in events]
    published = _published_at(probe, versions)
    times = [probe.sent_at, *reached, published, probe.learnt_at]
    known = [at for at in times if at is not None]
    return known if len(known) == len(times) else None


def _published_at(probe: Probe, versions: Sequence[Manifest]) -> float | None:
    """When the first version was published that has learnt a probe."""
    assert probe.partition is not None, "only probes that the broker has taken"
    for manifest in versions:
        if manifest.position.offsets.get(probe.partition, 0) > probe.offset:
            return manifest.published_ms / 1000
    return None


def described(parts: Mapping[str, float]) -> str:
    """One line for each part."""
    return "\n".join(f"  {name:8s} {parts[name]:6.3f} s  {PARTS[name]}" for name in parts)
