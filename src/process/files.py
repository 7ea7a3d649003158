"""Durable files: a reader sees the old content or the new one, never half of either."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Union

PathLike = Union[str, "os.PathLike[str]"]


@contextmanager
def atomic_writer(path: PathLike, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of ``path`` when the block ends without an error.

    The content is written beside the target, fsynced and renamed. The folder is fsynced too, so
    that the file survives a power cut. After an error the target is unchanged and no temporary
    file remains. A target that is not a regular file (a pipe, a device) is written directly.

    Args:
        path: The file to replace.
        durable: Wait until the disk has it; False for what can be rebuilt after a power cut.

    Raises:
        OSError: The folder is missing or not writable, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with open(target, "wb") as direct:
            yield direct
        return
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if durable:
        fsync_directory(target.parent)


def atomic_write_bytes(path: PathLike, data: bytes) -> None:
    """Replaces the content of ``path``, durably and in one piece.

    Raises:
        OSError: As ``atomic_writer``.
    """
    with atomic_writer(path) as file:
        file.write(data)


def fsync_directory(directory: PathLike) -> None:
    """Makes the names in a folder durable: a rename alone may be lost in a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
