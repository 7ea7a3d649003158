"""Made-up versions: a full one and deltas of a small model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.process.arrays import Array
from src.publishing.chain import Chain, write_current
from src.publishing.version_format import (
    DELTA,
    FULL,
    Contents,
    DictionaryTables,
    Manifest,
    VocabularyChange,
    write_version,
)
from src.stream.position import Position
from tests.features.made import make_dictionaries

VOCAB_SIZE, EMB_DIM = 60, 3
RUN = "0123abcd"
MODEL = {
    "field_size": 39,
    "vocab_size": VOCAB_SIZE,
    "emb_dim": EMB_DIM,
    "deep_layer_dim": [4],
    "deep_layer_act": "relu",
    "deep_pairs": False,
    "cross_bits": 0,
    "cross_fields": "",
    "dense_transform": "minmax",
    "admit_count": 2,
}


def make_arrays(seed: int = 0) -> dict[str, Array]:
    """The arrays of a model, float32."""
    random = np.random.default_rng(seed)
    shapes = {
        "wide_weight": (VOCAB_SIZE, 1),
        "wide_bias": (1,),
        "embedding_table": (VOCAB_SIZE, EMB_DIM),
        "deep.0.weight": (4, 39 * EMB_DIM),
        "deep.0.bias": (4,),
        "deep.1.weight": (1, 4),
        "deep.1.bias": (1,),
    }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def make_manifest(step: int, previous: Manifest | None = None, run: str = RUN) -> Manifest:
    """Of a delta after ``previous``, or of a full version without one."""
    name = f"{step}-{run}"
    return Manifest(
        name=name,
        version=step,
        kind=FULL if previous is None else DELTA,
        base=name if previous is None else previous.base,
        previous=None if previous is None else previous.name,
        topic="clicks",
        position=Position({0: 10 * step, 1: 10 * step + 3}, 1),
        trained_until_ms=1_700_000_000_000 + step,
        published_ms=1_700_000_000_500 + step,
        progressive={"rows": 100, "auc": 0.7, "log_loss": 0.5, "calibration": 1.0},
        model=MODEL,
        dictionaries=f"{make_dictionaries().fingerprint:016x}",
    )


def vocabulary(*entries: tuple[int, int, bytes]) -> VocabularyChange:
    """Of (id, field, value)."""
    ids, fields, values = zip(*entries) if entries else ((), (), ())
    return VocabularyChange(np.array(ids, np.int32), np.array(fields, np.int8), list(values))


def full_contents(seed: int = 0) -> Contents:
    """A full version with two values in the grown vocabulary."""
    return Contents(
        make_arrays(seed),
        vocabulary=vocabulary((39, 0, b"red"), (40, 25, b"blue")),
        dictionaries=DictionaryTables.of(make_dictionaries(C1_known=38 + 20)),
    )


def delta_contents(seed: int, rows: tuple[int, ...] = (1, 39)) -> Contents:
    """A delta: dense layers, some rows of both tables, id 39 goes from C1_red to C2_green."""
    arrays = make_arrays(seed)
    tables = ("wide_weight", "embedding_table")
    places = np.array(rows, np.int32)
    return Contents(
        {name: array for name, array in arrays.items() if name not in tables},
        {name: (places, arrays[name][places]) for name in tables},
        vocabulary((39, 1, b"green"), (40, -1, b"")),
    )


def write_chain(directory: Path, steps: tuple[int, ...] = (10, 20, 30)) -> list[Manifest]:
    """A full version and deltas, which ``current.json`` names."""
    manifests: list[Manifest] = []
    for step in steps:
        previous = manifests[-1] if manifests else None
        contents = full_contents(step) if previous is None else delta_contents(step)
        manifests.append(write_version(directory, make_manifest(step, previous), contents))
    write_current(directory, Chain([manifest.name for manifest in manifests]))
    return manifests
