"""Rebuilds versions from their chains, to find out whether every one of them can be served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from src.process.arrays import Array
from src.publishing.chain import Chain, check_link, read_chain
from src.publishing.version_format import (
    FREE,
    Contents,
    Manifest,
    PublishingError,
    VocabularyChange,
    patch,
    read_contents,
)

Entries = dict[int, tuple[int, bytes]]
"""(field, value) by id."""


class Rebuilt:
    """A version as a server holds it.

    Attributes:
        arrays: By name, whole.
        entries: The grown vocabulary.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self.entries: Entries = {}

    def copy(self) -> Rebuilt:
        """One that can be patched without changing this one."""
        copied = Rebuilt()
        copied.arrays = {name: array.copy() for name, array in self.arrays.items()}
        copied.entries = dict(self.entries)
        return copied

    def apply(self, manifest: Manifest, contents: Contents) -> None:
        """Becomes the next version.

        Raises:
            PublishingError: It does not fit this one, or can't be served.
        """
        try:
            patch(self.arrays, contents)
            if not contents.is_finite():
                raise PublishingError("a weight is not finite")
            if contents.vocabulary is not None:
                self._change_entries(contents.vocabulary, int(manifest.model["vocab_size"]))
            if contents.dictionaries is not None:
                contents.dictionaries.dictionaries()
        except (PublishingError, KeyError, ValueError) as error:
            raise PublishingError(f"version {manifest.name}: {error}") from None

    def _change_entries(self, change: VocabularyChange, vocab_size: int) -> None:
        ids = change.ids.tolist()
        if len(set(ids)) < len(ids) or not all(0 <= number < vocab_size for number in ids):
            raise PublishingError("its vocabulary has an id twice, or one that is not in the table")
        for number in ids:
            self.entries.pop(number, None)
        taken = zip(ids, change.fields.tolist(), change.values)
        self.entries.update((i, (column, value)) for i, column, value in taken if column != FREE)
        if len(set(self.entries.values())) < len(self.entries):
            raise PublishingError("two ids of its vocabulary have the same value")


def rebuild(directory: Path, names: Sequence[str]) -> Rebuilt:
    """The version that a chain ends with.

    Args:
        directory: The folder of versions.
        names: Of the chain's versions, the full one first.

    Raises:
        PublishingError: One of them is missing, damaged, or does not follow the one before it.
    """
    rebuilt = Rebuilt()
    for manifest in read_chain(directory, Chain(names)):
        rebuilt.apply(manifest, read_contents(directory, manifest))
    return rebuilt


def verify(directory: Path, manifests: list[Manifest]) -> Iterator[tuple[Manifest, str]]:
    """Reads every file of some versions, and rebuilds each version from its chain.

    Args:
        directory: The folder of versions.
        manifests: All that can be read.

    Yields:
        A version and what is wrong with it, "" for nothing; each version once.
    """
    followers: dict[str, list[Manifest]] = {}
    names = {manifest.name for manifest in manifests}
    first = []
    for manifest in manifests:
        if manifest.previous in names:
            followers.setdefault(manifest.previous, []).append(manifest)
        else:
            first.append(manifest)
    for manifest in first:
        yield from _verify_chain(directory, manifest, followers)


def _verify_chain(
    directory: Path, first: Manifest, followers: Mapping[str, Sequence[Manifest]]
) -> Iterator[tuple[Manifest, str]]:
    """A version and all that follow it; they branch where a trainer was cut off."""
    waiting: list[tuple[Manifest | None, Manifest, Rebuilt | None]] = [(None, first, Rebuilt())]
    while waiting:
        before, manifest, rebuilt = waiting.pop()
        fault = f"version {manifest.previous} before it is broken"
        if rebuilt is not None:
            fault = ""
            try:
                check_link(before, manifest)
                rebuilt.apply(manifest, read_contents(directory, manifest))
            except PublishingError as error:
                fault, rebuilt = str(error), None
        yield manifest, fault
        after = followers.get(manifest.name, ())
        for place, follower in enumerate(after):
            # The last one comes first, and changes this one's arrays.
            is_last = place == len(after) - 1
            waiting.append((manifest, follower, rebuilt if is_last else _copy(rebuilt)))


def _copy(rebuilt: Rebuilt | None) -> Rebuilt | None:
    return None if rebuilt is None else rebuilt.copy()
