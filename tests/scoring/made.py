"""A folder of versions whose weights and vocabulary change at random, and what must be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from src.dictionaries.known_values import KnownValues
from src.features.row_coder import RowCoder
from src.process.arrays import Array
from src.publishing.chain import Chain, write_current
from src.publishing.version_format import (
    DELTA,
    FREE,
    FULL,
    Contents,
    DictionaryTables,
    Manifest,
    VocabularyChange,
    write_version,
)
from src.rows.parsing import parse_messages
from src.scoring.model import Features, ServedModel, network_of
from src.stream.position import Position
from tests.features.made import make_dictionaries

DICTIONARIES = make_dictionaries(C1_known=39, C26_known=40)
FIRST_GROWN = 41
TABLES = ("wide_weight", "embedding_table", "cross_weight")
TRAINED_UNTIL_MS = 1_700_000_000_000


def line(dense: object = "", first: str = "", last: str = "", label: str = "0") -> bytes:
    """A row with I1, C1 and C26."""
    return "\t".join([label, str(dense), *[""] * 12, first, *[""] * 24, last]).encode()


LINES = [line(number, f"v{number % 9}", "known") for number in range(-3, 20)] + [line()]


class Publisher:
    """Publishes versions of a model that changes at random.

    Attributes:
        manifests: Those that ``current.json`` names.
        arrays: The weights of the newest version, by name.
    """

    def __init__(self, directory: Path, run: str = "0123abcd", **model: Any) -> None:
        self.directory = directory
        self.manifests: list[Manifest] = []
        self.step = 0
        self.model: dict[str, Any] = {
            "field_size": 39,
            "vocab_size": 120,
            "emb_dim": 3,
            "deep_layer_dim": [8],
            "deep_layer_act": "relu",
            "deep_pairs": True,
            "cross_bits": 6,
            "cross_fields": "",
            "dense_transform": "minmax",
            "admit_count": 1,
            **model,
        }
        self._run = run
        self._random = np.random.default_rng(len(run))
        self.arrays = {name: self._numbers(shape) for name, shape in self._shapes().items()}
        self._values: dict[int, tuple[int, bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        model = self.model
        rows, width, hidden = model["vocab_size"], model["emb_dim"], model["deep_layer_dim"][0]
        inputs = 39 * width + (741 if model["deep_pairs"] else 0)
        shapes: dict[str, tuple[int, ...]] = {
            "wide_weight": (rows, 1),
            "wide_bias": (1,),
            "embedding_table": (rows, width),
            "deep.0.weight": (hidden, inputs),
            "deep.0.bias": (hidden,),
            "deep.1.weight": (1, hidden),
            "deep.1.bias": (1,),
        }
        return (
            {**shapes, "cross_weight": (1 << model["cross_bits"],)}
            if model["cross_bits"]
            else shapes
        )

    def _numbers(self, shape: tuple[int, ...]) -> Array:
        return self._random.normal(0, 0.3, shape).astype(np.float32)

    def full(self) -> Manifest:
        """Publishes everything."""
        self._train()
        ids = sorted(self._values)
        contents = Contents(
            dict(self.arrays),
            vocabulary=self._vocabulary(ids),
            dictionaries=DictionaryTables.of(DICTIONARIES),
        )
        self.manifests.clear()
        return self._publish(contents)

    def delta(self) -> Manifest:
        """Publishes what has changed since the last version."""
        rows, ids = self._train()
        contents = Contents(
            {name: array for name, array in self.arrays.items() if name not in TABLES},
            {name: (places, self.arrays[name][places]) for name, places in rows.items()},
            self._vocabulary(ids),
        )
        return self._publish(contents)

    def point_to(self, manifests: list[Manifest]) -> None:
        """Lets ``current.json`` name these."""
        write_current(self.directory, Chain([manifest.name for manifest in manifests]))

    def expected(self) -> Array:
        """The logits of ``LINES`` by the newest version."""
        ids = np.array(sorted(self._values), np.int64)
        pairs = [self._values[id_] for id_ in ids.tolist()]
        known = KnownValues.of(
            np.array([field for field, _ in pairs], np.int64),
            np.array([value for _, value in pairs], np.bytes_),
            ids,
        )
        coder = RowCoder(DICTIONARIES, self.model["dense_transform"], self.model["vocab_size"])
        manifest = self.manifests[-1]
        model = ServedModel(manifest, Features(coder, known), network_of(manifest, self.arrays))
        return model.logit(parse_messages(LINES))

    def _train(self) -> tuple[dict[str, Array], list[int]]:
        """Changes all layers, some rows, and a few ids; returns these rows and ids."""
        self.step += 10
        rows: dict[str, Array] = {}
        for name, array in self.arrays.items():
            if name in TABLES:
                places = self._random.choice(len(array), len(array) // 4, replace=False)
                rows[name] = np.sort(places).astype(np.int32)
                array[rows[name]] = self._numbers(array[rows[name]].shape)
            else:
                array[:] = self._numbers(array.shape)
        ids = self._random.choice(np.arange(FIRST_GROWN, FIRST_GROWN + 12), 4, replace=False)
        for id_ in ids.tolist():
            self._values.pop(id_, None)
            value = (0, f"v{self._random.integers(9)}".encode())
            if value not in self._values.values() and self._random.integers(3):
                self._values[id_] = value
        return rows, sorted(ids.tolist())

    def _vocabulary(self, ids: list[int]) -> VocabularyChange:
        pairs = [self._values.get(id_, (FREE, b"")) for id_ in ids]
        return VocabularyChange(
            np.array(ids, np.int32),
            np.array([field for field, _ in pairs], np.int8),
            [value for _, value in pairs],
        )

    def _publish(self, contents: Contents) -> Manifest:
        name = f"{self.step}-{self._run}"
        previous = self.manifests[-1] if self.manifests else None
        coder = RowCoder(DICTIONARIES, self.model["dense_transform"], self.model["vocab_size"])
        manifest = Manifest(
            name=name,
            version=self.step,
            kind=FULL if previous is None else DELTA,
            base=name if previous is None else previous.base,
            previous=None if previous is None else previous.name,
            topic="clicks",
            position=Position({0: 10 * self.step, 1: 7}, 0),
            trained_until_ms=TRAINED_UNTIL_MS + self.step,
            published_ms=TRAINED_UNTIL_MS + self.step,
            progressive={"rows": 100, "auc": 0.7, "log_loss": 0.5, "calibration": 1.0},
            model=self.model,
            dictionaries=f"{coder.fingerprint:016x}",
        )
        self.manifests.append(write_version(self.directory, manifest, contents))
        self.point_to(self.manifests)
        return self.manifests[-1]
