"""Checkpoints: weights, optimizer state, step and position as one unit.

A unit is two files: ``<prefix>-1_<step>.ckpt``, which ``mindspore.load_checkpoint`` reads alone,
and a manifest of the same name ending in ``.json`` (``unit.py``). Beyond 1 GiB more parts come
beside the first, ``<prefix>-1_<step>.part2.ckpt`` and so on (``parts.py``). Each file is written
aside, fsynced and renamed, the manifest last: its rename is the moment at which the unit exists. A
unit whose files are torn or damaged is named in the log and the one before it is used.
"""

from __future__ import annotations

import glob
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from src.checkpoints.ckpt_file import type_name, write_ckpt
from src.checkpoints.copies import views_of
from src.checkpoints.locking import FolderLock
from src.checkpoints.parts import PART_BYTES, VOCABULARY, load, plan_parts
from src.checkpoints.unit import (
    CheckpointError,
    Part,
    Unit,
    as_json,
    manifest_of,
    manifest_path_of,
    manifests_in,
    newest_unit,
    part_files,
    part_path,
    remove_unit,
    step_of,
)
from src.process.arrays import Array
from src.process.files import atomic_write_bytes, fsync_directory
from src.stream.position import Position

logger = logging.getLogger(__name__)


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
        self._lock: FolderLock | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{directory}: {error.strerror}") from None

    def lock(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Keeps others from changing the folder until ``unlock``, or until this process ends.

        Without it each change locks the folder for itself.

        Args:
            give_up: Asked while it is not known yet whether another process is still there.

        Raises:
            CheckpointError: Another process has it: two trainers would overwrite each other.
        """
        lock = FolderLock(self._directory, give_up)
        lock.acquire()
        self._lock = lock

    def share_lock(self, other: CheckpointStore) -> None:
        """Makes changes under the lock of another store of the same folder."""
        self._lock = other._lock

    def unlock(self) -> None:
        """Lets others lock the folder again."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextmanager
    def _locked(self) -> Iterator[FolderLock]:
        """The lock for one change: that of the store, or one for as long as it takes."""
        if self._lock is not None:
            yield self._lock
            return
        lock = FolderLock(self._directory)
        lock.acquire()
        try:
            yield lock
        finally:
            lock.release()

    def save(
        self,
        network: ms.nn.Cell | Mapping[str, Array],
        step: int,
        position: Position,
        topic: str,
        dictionaries: int,
        model: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
        vocabulary: bytes = b"",
    ) -> Unit:
        """Writes a unit, durable on return, and removes the oldest beyond ``keep_max``.

        A unit of a later step can only be a damaged one, as training has restarted before it. It is
        removed too.

        Args:
            network: All its parameters are saved, the optimizers' state with them. Or copies of
                them by name.
            step: Steps trained.
            position: The position after them.
            topic: The topic the position speaks of.
            dictionaries: Fingerprint of the dictionaries that made the ids.
            model: What the weights' shapes follow from, as JSON.
            extra: What else continues with the weights, as JSON; kept in the manifest.
            vocabulary: What ``Growth.dump`` gives, for ``read_vocabulary``.

        Raises:
            CheckpointError: It could not be written, or the folder is another process's; the other
                units are untouched.
        """
        path = self._directory / f"{self._prefix}-1_{step}.ckpt"
        fields = (as_json(model), path, as_json(extra or {}))
        unit = Unit(step, position, topic, dictionaries, *fields)
        with self._locked() as lock:
            try:
                unit = self._write(_entries(network, vocabulary), unit, lock)
            except OSError as error:
                raise CheckpointError(f"can't write checkpoint {path}: {error.strerror}") from None
            self._remove_others(unit, lock)
        return unit

    def newest(self) -> Unit | None:
        """The newest valid unit, or None where there is none at all.

        What a write that was cut off has left is removed.

        Raises:
            CheckpointError: There are units, but none of them is valid; or the folder is another
                process's.
        """
        newest = newest_unit(self._directory, self._prefix)
        with self._locked() as lock:
            self._remove_leftovers(newest, lock)
        if newest is None and (found := self._manifests()):
            raise CheckpointError(
                f"none of the {len(found)} checkpoints in {self._directory} is valid; "
                "--fresh sets them aside"
            )
        return newest

    def restore(self, unit: Unit, network: ms.nn.Cell) -> None:
        """Loads every parameter of a unit into the network, or none.

        Raises:
            CheckpointError: The file can't be read, or names, shapes or types differ.
        """
        saved = load(unit)
        saved.pop(VOCABULARY, None)
        wanted = {parameter.name: parameter for parameter in network.get_parameters()}
        for side, names in (
            ("checkpoint", wanted.keys() - saved),
            ("network", saved.keys() - wanted),
        ):
            if names:
                raise CheckpointError(f"{unit.path}: the {side} lacks {', '.join(sorted(names))}")
        for name, parameter in wanted.items():
            kind = f"{type_name(saved[name].dtype)}{saved[name].shape}"
            if kind != _kind(parameter):
                raise CheckpointError(
                    f"{unit.path}: {name} is {kind} in the checkpoint, "
                    f"{_kind(parameter)} in the network"
                )
        for name, parameter in wanted.items():
            # The array becomes the parameter: a copy would be the third of a large table.
            parameter.set_data(ms.Tensor.from_numpy(saved.pop(name)))

    def check(self, unit: Unit, topic: str, dictionaries: int, model: Mapping[str, Any]) -> None:
        """Refuses a unit of another topic, dictionary or model shape.

        Raises:
            CheckpointError: Names what differs, with both values.
        """
        pairs: dict[str, tuple[Any, Any]] = {
            "topic": (unit.topic, topic),
            "dictionaries": (f"{unit.dictionaries:016x}", f"{dictionaries:016x}"),
        }
        model = as_json(model)
        for key in sorted({*unit.model, *model}):
            pairs[key] = (unit.model.get(key), model.get(key))
        for key, (saved, wanted) in pairs.items():
            if saved != wanted:
                raise CheckpointError(
                    f"{unit.path} is of another {key}: {saved} in the checkpoint, {wanted} here; "
                    "--fresh sets it aside"
                )

    def set_aside(self) -> None:
        """Moves all units into a folder of their own, for a fresh start.

        Raises:
            CheckpointError: They can't be moved, or the folder is another process's.
        """
        manifests = self._manifests()
        if not manifests:
            return
        with self._locked() as lock:
            try:
                target = _move(manifests, self._directory, lock)
            except OSError as error:
                raise CheckpointError(f"can't set checkpoints aside: {error}") from None
        logger.info("%d checkpoints set aside in %s", len(manifests), target)

    def _write(self, entries: Mapping[str, Array], unit: Unit, lock: FolderLock) -> Unit:
        """Makes a unit durable, or leaves nothing of it."""
        plan = plan_parts(entries, PART_BYTES)
        paths = [part_path(unit.path, number + 1) for number in range(len(plan.parts))]
        # No writer meets another's file, not even if it has lost the folder and does not know.
        token = secrets.token_hex(4)
        asides = [path.with_name(f".{path.name}.{token}.writing.ckpt") for path in paths]
        parts: list[Part] = []
        renamed = False
        try:
            for path, aside, part in zip(paths, asides, plan.parts):
                written = write_ckpt(aside, part)
                parts.append(Part(path.name, written.bytes, written.checksum))
            unit = replace(unit, parts=parts, cut=plan.cut)
            lock.confirm()
            for path, aside in zip(paths, asides):
                os.replace(aside, path)
                renamed = True
            for path in set(part_files(unit.manifest_path)) - set(paths):
                path.unlink()  # of a unit with this name that was damaged
            fsync_directory(self._directory)
            lock.confirm()
            atomic_write_bytes(unit.manifest_path, manifest_of(unit))
        except BaseException:
            for aside in asides:
                aside.unlink(missing_ok=True)
            if renamed:
                with suppress(CheckpointError):  # then they may be another's already
                    lock.confirm()
                    remove_unit(unit.manifest_path)
            raise
        return unit

    def _manifests(self) -> list[Path]:
        return manifests_in(self._directory, self._prefix)

    def _remove_others(self, written: Unit, lock: FolderLock) -> None:
        """Removes what is beyond ``keep_max``, and what is later than the unit just written."""
        manifests = self._manifests()
        here = manifests.index(written.manifest_path)
        for manifest in manifests[:here]:
            logger.warning("removing %s: training restarted before it", manifest)
        for manifest in manifests[:here] + manifests[here + self._keep_max :]:
            lock.confirm()
            try:
                remove_unit(manifest)
            except OSError as error:
                logger.warning("can't remove checkpoint %s: %s", manifest, error.strerror)

    def _remove_leftovers(self, newest: Unit | None, lock: FolderLock) -> None:
        for path in _leftovers(self._directory, self._prefix, newest):
            logger.info("removing %s, left by a write that was cut off", path)
            lock.confirm()
            try:
                path.unlink()
            except OSError as error:
                logger.warning("can't remove %s: %s", path, error.strerror)


def _leftovers(directory: Path, prefix: str, newest: Unit | None) -> Iterator[Path]:
    """The files of writes that were cut off."""
    names = glob.escape(prefix) + "-1_*"
    yield from directory.glob(f".{names}.writing.ckpt")
    yield from directory.glob(f".{names}.tmp")
    for path in directory.glob(f"{names}.ckpt"):
        step = step_of(path, prefix)
        if step is None or manifest_path_of(path).exists():
            continue
        if newest is not None and step < newest.step:
            yield path
        else:
            # It may be a file of the user's own, so it stays until a unit overtakes it.
            logger.warning("ignoring %s: it has no manifest beside it", path)


def _entries(network: ms.nn.Cell | Mapping[str, Array], vocabulary: bytes) -> dict[str, Array]:
    """What a unit holds: the network's parameters, and the vocabulary if there is one."""
    entries = dict(network) if isinstance(network, Mapping) else views_of(network)
    if vocabulary:
        entries[VOCABULARY] = np.frombuffer(vocabulary, dtype=np.uint8)
    return entries


def _move(manifests: list[Path], directory: Path, lock: FolderLock) -> Path:
    """Moves units into a new folder inside the directory, and returns it."""
    target = _new_folder(directory, time.strftime("before-%Y%m%dT%H%M%SZ", time.gmtime()))
    for manifest in manifests:
        lock.confirm()
        for path in (manifest, *part_files(manifest)):
            os.replace(path, target / path.name)
    fsync_directory(target)
    fsync_directory(directory)
    return target


def _new_folder(directory: Path, name: str) -> Path:
    """A new folder of that name, or of that name and a number: nothing is overwritten."""
    number = 1
    while True:
        target = directory / (name if number == 1 else f"{name}-{number}")
        try:
            target.mkdir()
            return target
        except FileExistsError:
            number += 1


def _kind(parameter: ms.Parameter) -> str:
    return f"{parameter.dtype}{tuple(parameter.shape)}"
