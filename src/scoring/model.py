"""A version as it serves: parsed rows go in, logits come out. Nothing in it is changed.

The features are those of the consumer, by the same code, and the ids of a growing vocabulary are
those of the trainer. A value without an id is out of vocabulary. It gets no id by being asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from src.dictionaries.errors import DictionaryError
from src.dictionaries.known_values import KnownValues
from src.features.field_pairs import pairs_of_fields
from src.features.row_coder import RowCoder
from src.process.arrays import Array
from src.publishing.version_format import Contents, Manifest, PublishingError, VocabularyChange
from src.rows.criteo import FIELD_SIZE, ParsedRows
from src.scoring.forward import ACTIVATIONS, Crosses, Network

MAX_CROSS_BITS = 30  # as many as the key of a field has, see ``field_keys``


@dataclass(frozen=True, eq=False)
class Features:
    """Makes of rows what the network takes.

    Attributes:
        coder: Codes columns by the dictionaries.
        known: The values of the growing vocabulary; None where it does not grow.
    """

    coder: RowCoder
    known: KnownValues | None

    def of(self, rows: ParsedRows) -> tuple[Array, Array]:
        """(id int32[rows, 39], weight float32[rows, 39])."""
        return self.coder.build(rows, self.known)

    def after(self, manifest: Manifest, contents: Contents) -> Features:
        """Those of the next version, which may be a delta.

        Raises:
            PublishingError: Its vocabulary does not fit.
        """
        return Features(self.coder, _known(manifest, contents.vocabulary, self.known))


def features_of(manifest: Manifest, contents: Contents, last: Features | None) -> Features:
    """The features of a full version.

    Args:
        manifest: What it is.
        contents: What is in it.
        last: Of a version before it: dictionaries that are the same are not built again.

    Raises:
        PublishingError: They lack something, or don't fit.
    """
    if last is not None and f"{last.coder.fingerprint:016x}" == manifest.dictionaries:
        coder = last.coder
    elif contents.dictionaries is None:
        raise PublishingError(f"version {manifest.name} has no dictionaries")
    else:
        coder = _coder(manifest, contents)
    return Features(coder, _known(manifest, contents.vocabulary, None))


def _coder(manifest: Manifest, contents: Contents) -> RowCoder:
    assert contents.dictionaries is not None
    try:
        coder = RowCoder(
            contents.dictionaries.dictionaries(),
            str(manifest.model["dense_transform"]),
            int(manifest.model["vocab_size"]),
        )
    except (DictionaryError, KeyError, ValueError) as error:
        raise PublishingError(f"dictionaries of version {manifest.name}: {error}") from None
    if f"{coder.fingerprint:016x}" != manifest.dictionaries:
        raise PublishingError(
            f"dictionaries of version {manifest.name} have fingerprint {coder.fingerprint:016x}, "
            f"its manifest says {manifest.dictionaries}"
        )
    return coder


def _known(
    manifest: Manifest, change: VocabularyChange | None, last: KnownValues | None
) -> KnownValues | None:
    if change is None:
        return last
    vocab_size = int(manifest.model["vocab_size"])
    if len(change.ids) and not 0 <= change.ids.min() <= change.ids.max() < vocab_size:
        raise PublishingError(f"version {manifest.name} has an id that is not below {vocab_size}")
    none = np.empty(0, dtype=np.int64)
    is_taken = change.fields >= 0
    before = KnownValues.of(none, np.empty(0, "S1"), none) if last is None else last
    taken = np.asarray(change.values, dtype=np.bytes_)[is_taken]
    return before.changed(
        change.ids[~is_taken], change.fields[is_taken], taken, change.ids[is_taken]
    )


def network_of(manifest: Manifest, arrays: Mapping[str, Array]) -> Network:
    """The network of a version; it holds the arrays themselves and no copies.

    Args:
        manifest: What the version is.
        arrays: All its arrays by name.

    Raises:
        PublishingError: One is missing, or has another shape than the model says.
    """
    model = manifest.model
    try:
        vocabulary, width = int(model["vocab_size"]), int(model["emb_dim"])
        widths = [int(size) for size in (*model["deep_layer_dim"], 1)]
        activation, has_pairs = str(model["deep_layer_act"]), bool(model["deep_pairs"])
        bits, fields = int(model["cross_bits"]), str(model["cross_fields"])
        if model["field_size"] != FIELD_SIZE or activation not in ACTIVATIONS:
            raise ValueError(f"{model['field_size']} fields with {activation}")
        if not 0 <= bits <= MAX_CROSS_BITS:
            raise ValueError(f"cross_bits is {bits}")
        pairs = np.array(pairs_of_fields(fields), dtype=np.int32)
    except (KeyError, TypeError, ValueError) as error:
        raise PublishingError(f"version {manifest.name} is of no known model: {error}") from None

    def array(name: str, *shape: int) -> Array:
        found = arrays.get(name)
        if found is None or found.shape != shape:
            has = "none" if found is None else str(found.shape)
            raise PublishingError(f"{name} of version {manifest.name} is {has}, expected {shape}")
        return found

    layers = []
    inputs = FIELD_SIZE * width + (FIELD_SIZE * (FIELD_SIZE - 1) // 2 if has_pairs else 0)
    for number, outputs in enumerate(widths):
        weight = array(f"deep.{number}.weight", outputs, inputs)
        layers.append((weight, array(f"deep.{number}.bias", outputs)))
        inputs = outputs
    crosses = None
    if bits:
        weight = array("cross_weight", 1 << bits)
        crosses = Crosses(weight, pairs[:, 0].copy(), pairs[:, 1].copy())
    return Network(
        wide_weight=array("wide_weight", vocabulary, 1).reshape(-1),
        wide_bias=array("wide_bias", 1),
        embedding_table=array("embedding_table", vocabulary, width),
        layers=layers,
        activation=activation,
        has_pairs=has_pairs,
        crosses=crosses,
    )


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A version that answers requests.

    Attributes:
        manifest: What it is.
        features: Makes ids and weights.
        network: Scores them.
    """

    manifest: Manifest
    features: Features
    network: Network

    def logit(self, rows: ParsedRows) -> Array:
        """Scores rows, float32[rows]; a number may not be finite where a row's weights are huge."""
        ids, weights = self.features.of(rows)
        keys = None if self.network.crosses is None else self.features.coder.keys(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            return self.network.logit(ids, weights, keys)
