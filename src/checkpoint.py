"""Checkpoints: weights, optimizer state, step and position as one unit.

A unit is two files: MindSpore's own ``<prefix>-1_<step>.ckpt``, which ``mindspore.load_checkpoint``
reads alone, and a manifest of the same name ending in ``.json`` with step, position, topic, what
the weights fit to, and the checksum of the first file. Each is written aside, fsynced and renamed,
the manifest last: its rename is the moment at which the unit exists. A unit whose files are torn or
damaged is named in the log and the one before it is used.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

import mindspore as ms
from crc32c import crc32c

from src.files import atomic_write_bytes, fsync_directory
from src.position import Position

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
        position: The position behind them.
        topic: The topic the position speaks of.
        dictionaries: Fingerprint of the dictionaries that made the ids.
        model: What the weights' shapes follow from.
        path: The .ckpt file.
    """

    step: int
    position: Position
    topic: str
    dictionaries: int
    model: Mapping[str, Any]
    path: Path

    @property
    def manifest_path(self) -> Path:
        """The manifest beside the .ckpt file."""
        return self.path.with_suffix(".json")


class CheckpointStore:
    """The checkpoints in one folder.

    Args:
        directory: The folder; made where it is missing.
        prefix: How the names begin.
        keep_max: How many units are kept.
    """

    def __init__(self, directory: Path, prefix: str, keep_max: int) -> None:
        self._directory = directory
        self._prefix = prefix
        self._keep_max = keep_max
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{directory}: {error.strerror}") from None

    def save(
        self,
        network: ms.nn.Cell,
        step: int,
        position: Position,
        topic: str,
        dictionaries: int,
        model: Mapping[str, Any],
    ) -> Unit:
        """Writes a unit, durable on return, and removes the oldest beyond ``keep_max``.

        Raises:
            CheckpointError: It could not be written; what was there before is untouched.
        """
        path = self._directory / f"{self._prefix}-1_{step}.ckpt"
        unit = Unit(step, position, topic, dictionaries, dict(model), path)
        aside = path.with_name(f".{path.name}.writing.ckpt")
        try:
            ms.save_checkpoint(network, str(aside))
            _fsync_file(aside)
            manifest = _manifest(unit, aside)
            os.replace(aside, path)
            fsync_directory(self._directory)
            atomic_write_bytes(unit.manifest_path, manifest)
        except (OSError, RuntimeError) as error:
            aside.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise CheckpointError(f"can't write checkpoint {path}: {reason}") from None
        self._remove_oldest()
        return unit

    def newest(self) -> Optional[Unit]:
        """The newest valid unit, or None where there is none at all.

        Raises:
            CheckpointError: There are units, but none of them is valid.
        """
        self._remove_leftovers()
        found = self._manifests()
        for manifest in found:
            try:
                return _read_unit(manifest)
            except CheckpointError as error:
                logger.warning("%s: using the checkpoint before it", error)
        if found:
            raise CheckpointError(
                f"none of the {len(found)} checkpoints in {self._directory} is valid; "
                "--fresh sets them aside"
            )
        return None

    def restore(self, unit: Unit, network: ms.nn.Cell) -> None:
        """Loads every parameter of a unit into the network.

        Raises:
            CheckpointError: Names or shapes differ.
        """
        saved = ms.load_checkpoint(str(unit.path))
        parameters = {parameter.name: parameter for parameter in network.get_parameters()}
        for name in sorted(parameters.keys() ^ saved.keys()):
            side = "the checkpoint lacks" if name in parameters else "the network lacks"
            raise CheckpointError(f"{unit.path}: {side} parameter {name}")
        for name, parameter in parameters.items():
            if tuple(parameter.shape) != tuple(saved[name].shape):
                raise CheckpointError(
                    f"{unit.path}: parameter {name} is {tuple(saved[name].shape)} in the "
                    f"checkpoint and {tuple(parameter.shape)} in the network"
                )
            parameter.set_data(saved[name].data)

    def check(
        self, unit: Unit, topic: str, dictionaries: int, model: Mapping[str, Any]
    ) -> None:
        """Refuses a unit of another topic, dictionary or model shape.

        Raises:
            CheckpointError: Names what differs, with both values.
        """
        pairs = {"topic": (unit.topic, topic), "dictionaries": (unit.dictionaries, dictionaries)}
        for key in sorted({*unit.model, *model}):
            pairs[key] = (unit.model.get(key), model.get(key))
        for key, (saved, wanted) in pairs.items():
            if saved != wanted:
                raise CheckpointError(
                    f"{unit.path} is of another {key}: {saved} in the checkpoint, {wanted} here; "
                    "--fresh sets it aside"
                )

    def set_aside(self) -> None:
        """Moves all units into a folder of their own, for a fresh start."""
        manifests = self._manifests()
        if not manifests:
            return
        target = self._directory / time.strftime("before-%Y%m%dT%H%M%SZ", time.gmtime())
        target.mkdir(exist_ok=True)
        for manifest in manifests:
            for path in (manifest, manifest.with_suffix(".ckpt")):
                if path.exists():
                    os.replace(path, target / path.name)
        logger.info("%d checkpoints set aside in %s", len(manifests), target)

    def _manifests(self) -> list[Path]:
        """The manifests, newest step first."""
        steps = {path: _step_of(path, self._prefix) for path in self._directory.glob("*.json")}
        known = [path for path, step in steps.items() if step is not None]
        return sorted(known, key=lambda path: steps[path] or 0, reverse=True)

    def _remove_oldest(self) -> None:
        for manifest in self._manifests()[self._keep_max :]:
            # The manifest goes first, so that no manifest is ever without its weights.
            manifest.unlink()
            manifest.with_suffix(".ckpt").unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """Removes what a write that was cut off has left."""
        for path in self._leftovers():
            logger.info("removing %s, left by a write that was cut off", path)
            path.unlink()

    def _leftovers(self) -> Iterator[Path]:
        yield from self._directory.glob(f".{self._prefix}-1_*.ckpt")
        yield from self._directory.glob(f".{self._prefix}-1_*.tmp")
        for path in self._directory.glob(f"{self._prefix}-1_*.ckpt"):
            if not path.with_suffix(".json").exists():
                yield path


def _step_of(path: Path, prefix: str) -> Optional[int]:
    begin = f"{prefix}-1_"
    number = path.stem[len(begin) :]
    return int(number) if path.stem.startswith(begin) and number.isdigit() else None


def _manifest(unit: Unit, written: Path) -> bytes:
    fields = {
        "format": FORMAT,
        "step": unit.step,
        "position": json.loads(unit.position.to_json()),
        "topic": unit.topic,
        "dictionaries": f"{unit.dictionaries:016x}",
        "model": unit.model,
        "checkpoint": unit.path.name,
        "bytes": written.stat().st_size,
        "crc32c": f"{_checksum(written):08x}",
    }
    return json.dumps({**fields, "manifest_crc32c": _fields_checksum(fields)}, indent=2).encode()


def _fields_checksum(fields: Mapping[str, Any]) -> str:
    return f"{crc32c(json.dumps(fields, sort_keys=True).encode()):08x}"


def _read_unit(manifest: Path) -> Unit:
    """Reads and verifies a unit."""
    try:
        fields = json.loads(manifest.read_bytes())
        if fields.pop("manifest_crc32c") != _fields_checksum(fields):
            raise CheckpointError(f"{manifest} is damaged: its checksum differs")
        path = manifest.with_suffix(".ckpt")
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


def _fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
