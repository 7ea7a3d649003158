"""A unit: what a checkpoint holds besides the weights, and the manifest that says so.

The manifest is a JSON file beside the weights' file. It holds step, position, topic, what the
weights fit to, and the checksum of the weights' file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crc32c import crc32c

from src.stream.position import Position

logger = logging.getLogger(__name__)

FORMAT = 1
CHUNK_BYTES = 1 << 24


class CheckpointError(RuntimeError):
    """A checkpoint can't be written, read, or does not fit; one line says why."""


@dataclass(frozen=True)
class Unit:
    """A durable checkpoint.

    Attributes:
        step: Steps trained.
        position: The position after them.
        topic: The topic the position speaks of.
        dictionaries: Fingerprint of the dictionaries that made the ids.
        model: What the weights' shapes follow from.
        path: The .ckpt file.
        extra: What else continues with the weights, as JSON; empty in older units.
    """

    step: int
    position: Position
    topic: str
    dictionaries: int
    model: Mapping[str, Any]
    path: Path
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def manifest_path(self) -> Path:
        """The manifest beside the .ckpt file."""
        return self.path.with_suffix(".json")


def newest_unit(directory: Path, prefix: str) -> Unit | None:
    """The newest valid unit in a folder, None where there is none; nothing is changed."""
    for manifest in manifests_in(directory, prefix):
        try:
            return _read_unit(manifest)
        except CheckpointError as error:
            logger.warning("%s: using the checkpoint before it", error)
    return None


def read_unit(path: Path) -> Unit:
    """The unit of a .ckpt file with a manifest beside it; nothing is changed.

    Raises:
        CheckpointError: It is torn, damaged or of another format.
    """
    return _read_unit(path.with_suffix(".json"))


def as_json(model: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as it will be read back: tuples become lists."""
    fields: dict[str, Any] = json.loads(json.dumps(dict(model)))
    return fields


def manifests_in(directory: Path, prefix: str) -> list[Path]:
    """The manifests in a folder, newest step first."""
    steps = {path: step_of(path, prefix) for path in directory.glob("*.json")}
    known = [path for path, step in steps.items() if step is not None]
    return sorted(known, key=lambda path: steps[path] or 0, reverse=True)


def step_of(path: Path, prefix: str) -> int | None:
    """The step in the name of a unit's file; None where it is the name of something else."""
    begin = f"{prefix}-1_"
    number = path.stem[len(begin) :]
    return int(number) if path.stem.startswith(begin) and number.isdecimal() else None


def manifest_of(unit: Unit, written: Path) -> bytes:
    """The manifest of a unit whose weights have been written to a file."""
    fields = {
        "format": FORMAT,
        "step": unit.step,
        "position": json.loads(unit.position.to_json()),
        "topic": unit.topic,
        "dictionaries": f"{unit.dictionaries:016x}",
        "model": unit.model,
        "extra": unit.extra,
        "checkpoint": unit.path.name,
        "bytes": written.stat().st_size,
        "crc32c": f"{_checksum(written):08x}",
    }
    return json.dumps({**fields, "manifest_crc32c": _fields_checksum(fields)}, indent=2).encode()


def _fields_checksum(fields: Mapping[str, Any]) -> str:
    return f"{crc32c(json.dumps(fields, sort_keys=True).encode()):08x}"


def _read_unit(manifest: Path) -> Unit:
    """Reads and verifies a unit.

    Raises:
        CheckpointError: It is torn, damaged or of another format.
    """
    try:
        fields = json.loads(manifest.read_bytes())
        if fields.pop("manifest_crc32c") != _fields_checksum(fields):
            raise CheckpointError(f"{manifest} is damaged: its checksum differs")
        if fields["format"] != FORMAT:
            raise CheckpointError(f"{manifest} has format {fields['format']}, expected {FORMAT}")
        path = manifest.with_suffix(".ckpt")
        if path.name != fields["checkpoint"]:
            raise CheckpointError(f"{manifest} is the manifest of {fields['checkpoint']}")
        size = path.stat().st_size
        if size != fields["bytes"]:
            raise CheckpointError(f"{path} has {size} bytes, expected {fields['bytes']}")
        checksum = f"{_checksum(path):08x}"
        if checksum != fields["crc32c"]:
            raise CheckpointError(f"{path} has checksum {checksum}, expected {fields['crc32c']}")
        return Unit(
            int(fields["step"]),
            Position.from_json(json.dumps(fields["position"])),
            str(fields["topic"]),
            int(fields["dictionaries"], 16),
            fields["model"],
            path,
            fields.get("extra", {}),
        )
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{manifest} is damaged: {error}") from None


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            value = crc32c(chunk, value)
    return value
