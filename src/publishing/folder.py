"""The folder of versions: who may write, what is served, what is kept, and going back.

One trainer publishes to it, and an operator may pin what is served meanwhile. Whoever changes
``current.json`` or removes a version holds a lock. A reader needs none.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from src.publishing.chain import CURRENT, Chain, read_chain, read_current, write_current
from src.publishing.version_format import (
    ASIDE,
    Manifest,
    PublishingError,
    is_version_name,
    read_contents,
    read_manifest,
)

logger = logging.getLogger(__name__)

NEWEST = "newest.json"
"""The chain that the trainer goes on with while ``current.json`` is pinned to another."""
REMOVING = ".removing-"
_LOCK, _PUBLISHER_LOCK = ".lock", ".publisher.lock"


@dataclass(frozen=True)
class FoundVersion:
    """A version's folder.

    Attributes:
        name: Of the folder.
        manifest: What the version is; None where that can't be read.
        fault: Why not, on one line; empty where it can be read.
    """

    name: str
    manifest: Manifest | None
    fault: str = ""


class VersionFolder:
    """The versions in a folder.

    Args:
        directory: The folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._publisher_lock: int | None = None

    # --- for the trainer

    def open(self) -> None:
        """Makes the folder where it is missing, locks out other trainers, removes half versions.

        Raises:
            PublishingError: It can't be used, or another trainer publishes to it.
        """
        path = self.directory / _PUBLISHER_LOCK
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._publisher_lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._publisher_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PublishingError(
                f"another trainer publishes to {self.directory}; "
                "--publish_path names another folder"
            ) from None
        except OSError as error:
            raise PublishingError(f"can't use {path}: {error.strerror}") from None
        for left in self.directory.iterdir():
            if left.name.startswith((ASIDE, REMOVING)):
                logger.info("removing %s, left by a trainer that was cut off", left)
                shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Lets another trainer publish to it."""
        if self._publisher_lock is not None:
            os.close(self._publisher_lock)
            self._publisher_lock = None

    def newest(self) -> Manifest | None:
        """The last version that a trainer published, for the gate; None where there is none."""
        for name in (NEWEST, CURRENT):
            try:
                chain = read_current(self.directory, name)
                if chain is not None:
                    return read_manifest(self.directory / chain.names[-1])
            except PublishingError as error:
                logger.warning("%s", error)
        return None

    def advance(self, names: Sequence[str]) -> bool:
        """Makes a chain the one that is served, unless a rollback has pinned another.

        Returns:
            Whether it is served.

        Raises:
            PublishingError: It could not be written.
        """
        with self._locked():
            try:
                current = read_current(self.directory)
            except PublishingError as error:
                logger.warning("%s: it is written anew", error)
                current = None
            is_pinned = current is not None and current.pinned
            write_current(self.directory, Chain(names), NEWEST if is_pinned else CURRENT)
            if not is_pinned:
                (self.directory / NEWEST).unlink(missing_ok=True)
        return not is_pinned

    def discard(self, name: str) -> None:
        """Removes a version that nothing names, as far as that is possible."""
        shutil.rmtree(self.directory / name, ignore_errors=True)

    def remove_old(self, keep: int) -> None:
        """Removes each chain with ``keep`` or more newer ones, unless it is served or pinned.

        What can't be removed is named and left alone.
        """
        with self._locked():
            chains = _chains(found.manifest for found in self.versions() if found.manifest)
            named = self._named()
            for chain in chains[: max(len(chains) - keep, 0)]:
                if not named & {manifest.name for manifest in chain}:
                    self._remove(chain)

    # --- for the operator

    def versions(self) -> list[FoundVersion]:
        """All versions, oldest first; those whose manifest is damaged come first of all.

        Raises:
            PublishingError: The folder can't be read.
        """
        try:
            names = [path.name for path in self.directory.iterdir() if is_version_name(path.name)]
        except OSError as error:
            raise PublishingError(f"{self.directory}: {error.strerror}") from None
        found = [self._found(name) for name in names]
        return sorted(found, key=_age)

    def chain_to(self, wanted: str) -> Chain:
        """The chain that ends with a version.

        Args:
            wanted: The version's step, or the name of its folder.

        Raises:
            PublishingError: There is no such version, or one before it can't be read.
        """
        manifest = self._version_named(wanted)
        names = [manifest.name]
        while manifest.previous is not None and manifest.previous not in names:
            manifest = read_manifest(self.directory / manifest.previous)
            names.append(manifest.name)
        return Chain(names[::-1])

    def roll_back(self, wanted: str) -> Manifest:
        """Serves a version whose files are whole, and no other until ``resume``.

        Args:
            wanted: The version's step, or the name of its folder.

        Returns:
            The version that is served from now on.

        Raises:
            PublishingError: There is no such version, or its chain is broken.
        """
        with self._locked():
            chain = self.chain_to(wanted)
            for manifest in read_chain(self.directory, chain):
                read_contents(self.directory, manifest)
            current = read_current(self.directory)
            if current is not None and not current.pinned:
                write_current(self.directory, Chain(current.names), NEWEST)
            write_current(self.directory, Chain(chain.names, pinned=True))
        return read_manifest(self.directory / chain.names[-1])

    def resume(self) -> Manifest | None:
        """Serves the trainer's newest version again.

        Returns:
            The version that is served from now on; None where nothing was pinned.

        Raises:
            PublishingError: ``current.json`` can't be read or written.
        """
        with self._locked():
            current = read_current(self.directory)
            if current is None or not current.pinned:
                return None
            newest = read_current(self.directory, NEWEST) or current
            write_current(self.directory, Chain(newest.names))
            (self.directory / NEWEST).unlink(missing_ok=True)
        return read_manifest(self.directory / newest.names[-1])

    # --- parts of the above

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.directory / _LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise PublishingError(f"can't lock {path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise PublishingError(f"{error.filename or path}: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def _found(self, name: str) -> FoundVersion:
        try:
            return FoundVersion(name, read_manifest(self.directory / name))
        except PublishingError as error:
            return FoundVersion(name, None, str(error))

    def _named(self) -> set[str]:
        """The versions that must stay."""
        names: set[str] = set()
        for file in (CURRENT, NEWEST):
            chain = read_current(self.directory, file)
            names.update(chain.names if chain is not None else ())
        return names

    def _remove(self, chain: Sequence[Manifest]) -> None:
        """Removes a chain from its end, so that what a crash leaves of it is a chain too."""
        for manifest in reversed(chain):
            path = self.directory / manifest.name
            aside = self.directory / f"{REMOVING}{manifest.name}"
            try:
                os.rename(path, aside)
                shutil.rmtree(aside)
            except OSError as error:
                logger.warning("can't remove version %s: %s", path, error.strerror)
                return

    def _version_named(self, wanted: str) -> Manifest:
        readable = [found.manifest for found in self.versions() if found.manifest]
        matching = [
            manifest for manifest in readable if wanted in (manifest.name, str(manifest.version))
        ]
        if not matching:
            raise PublishingError(f"{self.directory} has no version {wanted} that can be read")
        if len(matching) > 1:
            names = ", ".join(manifest.name for manifest in matching)
            raise PublishingError(f"version {wanted} is there more than once: give one of {names}")
        return matching[0]


def _age(found: FoundVersion) -> tuple[int, int]:
    manifest = found.manifest
    return (0, 0) if manifest is None else (manifest.published_ms, manifest.version)


def _chains(manifests: Iterator[Manifest]) -> list[list[Manifest]]:
    """The versions by the full version that they build on, oldest first in both lists."""
    chains: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        chains.setdefault(manifest.base, []).append(manifest)
    return list(chains.values())
