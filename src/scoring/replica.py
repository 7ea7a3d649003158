"""One copy of a model's arrays, which is patched from version to version while it serves nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from src.process.arrays import Array
from src.publishing.version_format import (
    FULL,
    Contents,
    Manifest,
    PublishingError,
    patch,
    read_contents,
)
from src.rows.parsing import parse_messages
from src.scoring.model import Features, ServedModel, features_of, network_of

_WARM_UP_LINE = b"0" + b"\t" * 39


class Replica:
    """A copy of the arrays, and the version that they hold.

    Attributes:
        manifest: What the version is; None where the arrays hold none as a whole.
        features: That belong to it.
    """

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        self.features: Features | None = None
        self._arrays: dict[str, Array] = {}
        self._users = 0
        self._free = threading.Condition()

    @property
    def name(self) -> str | None:
        """The name of the version."""
        return None if self.manifest is None else self.manifest.name

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keeps the arrays as they are while the block runs."""
        with self._free:
            self._users += 1
        try:
            yield
        finally:
            with self._free:
                self._users -= 1
                self._free.notify_all()

    def wait_until_free(self, seconds: float) -> bool:
        """Whether nobody uses it, after at most so many seconds."""
        with self._free:
            return self._free.wait_for(lambda: not self._users, seconds)

    def copy_from(self, other: Replica) -> None:
        """Takes over the version of another replica."""
        self.manifest = None
        for gone in set(self._arrays) - set(other._arrays):
            del self._arrays[gone]
        for name, array in other._arrays.items():
            known = self._arrays.get(name)
            if known is None or known.shape != array.shape:
                self._arrays[name] = array.copy()
            else:
                np.copyto(known, array)
        self.manifest, self.features = other.manifest, other.features

    def move_on(self, directory: Path, manifest: Manifest, contents: Contents | None) -> Contents:
        """Takes over the next version of its chain, or any full one.

        Args:
            directory: The folder of versions.
            manifest: Of the next version.
            contents: What is in it; None reads it.

        Returns:
            What is in it.

        Raises:
            PublishingError: It is missing, damaged, not finite, or does not fit. The replica still
                holds the version before, unless the fault showed in its arrays.
        """
        if contents is None:
            contents = read_contents(directory, manifest)
            if not contents.is_finite():
                raise PublishingError(f"version {manifest.name} has a weight that is not finite")
        if manifest.kind == FULL:
            features = features_of(manifest, contents, self.features)
        else:
            assert self.features is not None, "a delta follows a version"
            features = self.features.after(manifest, contents)
        self.manifest = None  # until the arrays are whole again
        if manifest.kind == FULL:
            for gone in set(self._arrays) - set(contents.whole):
                del self._arrays[gone]
        patch(self._arrays, contents)
        network_of(manifest, self._arrays)
        self.manifest, self.features = manifest, features
        return contents

    def model(self) -> ServedModel:
        """The version, ready to serve: it has scored a row once.

        Raises:
            PublishingError: The score is not finite.
        """
        assert self.manifest is not None
        assert self.features is not None
        model = ServedModel(self.manifest, self.features, network_of(self.manifest, self._arrays))
        if not np.isfinite(model.logit(parse_messages([_WARM_UP_LINE]))).all():
            raise PublishingError(f"the scores of version {self.manifest.name} are not finite")
        return model
