"""A unit: what a checkpoint holds besides the weights, and the manifest that says so.

The manifest is a JSON file beside the .ckpt file. It holds step, position, topic, what the weights
fit to, and the checksum of the file. A unit beyond 1 GiB has several .ckpt files: its parts, see
``parts.py``. Then the manifest is of another format, which a program that knows no parts refuses.
"""

from __future__ import annotations

import glob
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crc32c import crc32c

from src.stream.position import Position

logger = logging.getLogger(__name__)

FORMAT = 1
PARTS_FORMAT = 2
CHUNK_BYTES = 1 << 24
UNIT_FILE = re.compile(r"-1_(?P<step>\d+)(?:\.json|(?:\.part\d+)?\.ckpt)", re.ASCII)
"""How the name of a unit's file goes on after the prefix."""


class CheckpointError(RuntimeError):
    """A checkpoint can't be written, read, or does not fit; one line says why."""


@dataclass(frozen=True)
class Part:
    """One of a unit's .ckpt files: its name, its size in bytes and its CRC-32C."""

    name: str
    bytes: int
    checksum: int


@dataclass(frozen=True)
class Unit:
    """A durable checkpoint.

    Attributes:
        step: Steps trained.
        position: The position after them.
        topic: The topic the position speaks of.
        dictionaries: Fingerprint of the dictionaries that made the ids.
        model: What the weights' shapes follow from.
        path: The .ckpt file, the first one where there are several.
        extra: What else continues with the weights, as JSON; empty in older units.
        parts: The .ckpt files; empty before they are written.
        cut: Entries that are cut into pieces, with their shapes.
    """

    step: int
    position: Position
    topic: str
    dictionaries: int
    model: Mapping[str, Any]
    path: Path
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    parts: Sequence[Part] = ()
    cut: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The .ckpt files."""
        return [self.path.with_name(part.name) for part in self.parts]

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
    """The unit of a .ckpt file, or of one of its parts, with a manifest; nothing is changed.

    Raises:
        CheckpointError: It is torn, damaged or of another format.
    """
    return _read_unit(manifest_path_of(path))


def manifest_path_of(path: Path) -> Path:
    """Where the manifest of a .ckpt file is, or that of a part."""
    return path.with_name(re.sub(r"(\.part\d+)?\.ckpt$", "", path.name) + ".json")


def part_path(path: Path, number: int) -> Path:
    """The file of a unit's part, counted from 1; the first has the name of a unit without parts."""
    return path if number == 1 else path.with_suffix(f".part{number}.ckpt")


def as_json(model: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as it will be read back: tuples become lists."""
    fields: dict[str, Any] = json.loads(json.dumps(dict(model)))
    return fields


def manifests_in(directory: Path, prefix: str) -> list[Path]:
    """The manifests in a folder, newest step first."""
    steps = {path: step_of(path, prefix) for path in directory.glob("*.json")}
    known = [path for path, step in steps.items() if step is not None]
    return sorted(known, key=lambda path: steps[path] or 0, reverse=True)


def part_files(manifest: Path) -> list[Path]:
    """The .ckpt files there are beside a manifest, whether it names them or not."""
    stem = glob.escape(manifest.stem)
    folder = manifest.parent
    return [*folder.glob(f"{stem}.ckpt"), *folder.glob(f"{stem}.part*.ckpt")]


def remove_unit(manifest: Path) -> None:
    """Removes a unit with all its files.

    Raises:
        OSError: One of them can't be removed.
    """
    # The manifest goes first, so that no manifest is ever without its weights.
    manifest.unlink(missing_ok=True)
    for path in part_files(manifest):
        path.unlink(missing_ok=True)


def step_of(path: Path, prefix: str) -> int | None:
    """The step in the name of a unit's file; None where it is the name of something else."""
    found = UNIT_FILE.fullmatch(path.name, len(prefix)) if path.name.startswith(prefix) else None
    return int(found["step"]) if found else None


def manifest_of(unit: Unit) -> bytes:
    """The manifest of a unit whose parts have been written."""
    fields: dict[str, Any] = {
        "format": FORMAT,
        "step": unit.step,
        "position": json.loads(unit.position.to_json()),
        "topic": unit.topic,
        "dictionaries": f"{unit.dictionaries:016x}",
        "model": unit.model,
        "extra": unit.extra,
        "checkpoint": unit.path.name,
    }
    described = [
        {"checkpoint": part.name, "bytes": part.bytes, "crc32c": f"{part.checksum:08x}"}
        for part in unit.parts
    ]
    if len(described) == 1 and not unit.cut:
        fields.update(described[0])
    else:
        fields.update(format=PARTS_FORMAT, parts=described, cut=as_json(unit.cut))
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
        if fields["format"] not in (FORMAT, PARTS_FORMAT):
            raise CheckpointError(
                f"{manifest} has format {fields['format']}, expected at most {PARTS_FORMAT}"
            )
        path = manifest.with_suffix(".ckpt")
        if path.name != fields["checkpoint"]:
            raise CheckpointError(f"{manifest} is the manifest of {fields['checkpoint']}")
        parts = [
            Part(part["checkpoint"], part["bytes"], int(part["crc32c"], 16))
            for part in fields.get("parts", [fields])
        ]
        for part in parts:
            _verify(path.with_name(part.name), part)
        return Unit(
            int(fields["step"]),
            Position.from_json(json.dumps(fields["position"])),
            str(fields["topic"]),
            int(fields["dictionaries"], 16),
            fields["model"],
            path,
            fields.get("extra", {}),
            parts,
            {name: tuple(shape) for name, shape in fields.get("cut", {}).items()},
        )
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{manifest} is damaged: {error}") from None


def _verify(path: Path, part: Part) -> None:
    """Raises CheckpointError where a file is not what the manifest says."""
    size = path.stat().st_size
    if size != part.bytes:
        raise CheckpointError(f"{path} has {size} bytes, expected {part.bytes}")
    checksum = _checksum(path)
    if checksum != part.checksum:
        raise CheckpointError(f"{path} has checksum {checksum:08x}, expected {part.checksum:08x}")


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            value = crc32c(chunk, value)
    return value
