"""What a published version is on disk. Who serves a model needs this file and no other.

A folder of versions holds one folder for each version, and ``current.json``, which names the chain
to serve (see ``chain.py``). A version's folder is called ``<step>-<run>``, such as
``4200-1f3a9c2b``: a trainer that has restarted may publish the same step once more. In it are

=====================  =======  =================================================================
file                   in       content
=====================  =======  =================================================================
``manifest.json``      both     what the version is, and size and checksum of the other files
``weights.safetensors``  both   arrays, see below
``vocabulary.arrow``   both     ids that the growing vocabulary has given, and taken back
``ids.arrow``          full     the dictionary of ids: ``token`` large_string, ``id`` int32
``bounds.arrow``       full     bounds of the dense columns: ``column`` string, ``minimum`` and
                                ``maximum`` float64
=====================  =======  =================================================================

**Arrays** have the names and shapes that they have in a checkpoint, float32 throughout. With v rows
of the vocabulary, embeddings of width e, and L dense layers whose last one is one wide:

``wide_weight`` [v, 1], ``wide_bias`` [1], ``embedding_table`` [v, e], ``deep.<k>.weight``
[out, in] and ``deep.<k>.bias`` [out] for k = 0 … L - 1, and with crosses ``cross_weight``
[2^cross_bits].

A *full* version holds each array whole. A *delta* holds the small arrays whole. Of a table it holds
the rows that differ from the version before: ``<name>.rows`` int32[n], each row once and ascending,
and ``<name>.values`` [n, …]. Where that would be larger, a delta holds the table whole too.

**The vocabulary** has three columns: ``id`` int32, each once; ``field`` int8, 0 for C1 … 25 for
C26; ``value`` binary, its UTF-8 bytes. In a full version these are all ids that values have. In a
delta they are the ids whose value has changed: field and value are null where the id is free now,
else the id belongs to this value and to no other. First all these ids lose their old values, then
they get the new ones. The file is there only where the vocabulary grows (``admit_count`` above 0).

**The manifest** is ``Manifest`` as JSON. ``model`` holds what scoring needs: ``field_size``,
``vocab_size``, ``emb_dim``, ``deep_layer_dim``, ``deep_layer_act``, ``deep_pairs``, ``cross_bits``,
``cross_fields``, ``dense_transform`` and ``admit_count``, named as in ``default_config.yaml``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from crc32c import crc32c

from src.dictionaries.dictionaries import Dictionaries
from src.dictionaries.oov import MAX_VALUE_BYTES
from src.dictionaries.value_keys import fixed_width
from src.process.arrays import Array
from src.process.files import fsync_directory
from src.publishing.tensor_file import TensorFileError, parse_tensors, pieces_of
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_COLUMNS
from src.stream.position import Position

FORMAT = 1
FULL, DELTA = "full", "delta"
MANIFEST = "manifest.json"
WEIGHTS, VOCABULARY = "weights.safetensors", "vocabulary.arrow"
IDS, BOUNDS = "ids.arrow", "bounds.arrow"
FREE = -1
"""The field of an id that no value has."""
ASIDE = ".writing-"
"""How the name of a folder begins that is not a version yet."""

_NAME = re.compile(r"[0-9]+-[0-9a-f]{8}")
_ROWS, _VALUES = ".rows", ".values"
_VOCABULARY_SCHEMA = pa.schema(
    [("id", pa.int32()), ("field", pa.int8()), ("value", pa.large_binary())]
)
_IDS_SCHEMA = pa.schema([("token", pa.large_string()), ("id", pa.int32())])
_BOUNDS_SCHEMA = pa.schema(
    [("column", pa.string()), ("minimum", pa.float64()), ("maximum", pa.float64())]
)


class PublishingError(RuntimeError):
    """A version can't be written, read, or does not fit; one line says why."""


@dataclass(frozen=True)
class FileEntry:
    """Size of a file in bytes, and its checksum as eight hexadecimal digits."""

    bytes: int
    crc32c: str


@dataclass(frozen=True)
class Manifest:
    """What a version is.

    Attributes:
        name: Of its folder.
        version: Steps trained, since the model's very first step.
        kind: ``full`` or ``delta``.
        base: Name of the full version that its chain begins with; its own where it is full.
        previous: Name of the version that a delta changes; None where it is full.
        topic: The topic that the position speaks of.
        position: The next offsets to train: the rows before them are learnt.
        trained_until_ms: Kafka's time of the newest row learnt, ms since 1970.
        published_ms: When it was written, ms since 1970.
        progressive: ``auc``, ``log_loss`` and ``calibration`` of the newest rows, scored before
            they were learnt, and ``rows``, how many these are; a score is None where unknown.
        model: What scoring needs, see the module.
        dictionaries: Fingerprint of the dictionaries that made the ids, 16 hexadecimal digits.
        files: The other files in the folder.
    """

    name: str
    version: int
    kind: str
    base: str
    previous: str | None
    topic: str
    position: Position
    trained_until_ms: int
    published_ms: int
    progressive: Mapping[str, float | None]
    model: Mapping[str, Any]
    dictionaries: str
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The content of ``manifest.json``."""
        fields = {
            "format": FORMAT,
            **asdict(replace(self, position=Position({}))),
            "position": json.loads(self.position.to_json()),
        }
        return json.dumps({**fields, "manifest_crc32c": _checksum_of(fields)}, indent=2).encode()


@dataclass(frozen=True, eq=False)
class VocabularyChange:
    """Ids and the values that have them now.

    Attributes:
        ids: int32[n], each once.
        fields: int8[n], 0 for C1 … 25 for C26, ``FREE`` where no value has the id.
        values: n values, their UTF-8 bytes; empty where the id is free. Those that were read are
            S[n], as a million Python objects would hold up whatever runs beside it.
    """

    ids: Array
    fields: Array
    values: Sequence[bytes] | Array


@dataclass(frozen=True, eq=False)
class Contents:
    """The arrays and tables of a version.

    Attributes:
        whole: Arrays by name.
        rows: Of the other tables (rows int32[n], values float32[n, …]), by name.
        vocabulary: None where the vocabulary does not grow.
        dictionaries: The tables ``ids`` and ``bounds``; None in a delta.
    """

    whole: Mapping[str, Array]
    rows: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    vocabulary: VocabularyChange | None = None
    dictionaries: DictionaryTables | None = None

    def numbers(self) -> Iterator[tuple[str, Array]]:
        """The weights, float32, with the names of their arrays."""
        yield from self.whole.items()
        for name, (_, values) in self.rows.items():
            yield name, values

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(is_finite(array) for _, array in self.numbers())


@dataclass(frozen=True, eq=False)
class DictionaryTables:
    """The three dictionaries as Arrow tables, see the module."""

    ids: pa.Table
    bounds: pa.Table

    @staticmethod
    def of(dictionaries: Dictionaries) -> DictionaryTables:
        """The tables of dictionaries."""
        ids = dictionaries.id_by_token
        low, high = dictionaries.min_by_column, dictionaries.max_by_column
        return DictionaryTables(
            pa.table([list(ids), list(ids.values())], schema=_IDS_SCHEMA),
            pa.table(
                [
                    list(DENSE_COLUMNS),
                    [low[column] for column in DENSE_COLUMNS],
                    [high[column] for column in DENSE_COLUMNS],
                ],
                schema=_BOUNDS_SCHEMA,
            ),
        )

    def dictionaries(self) -> Dictionaries:
        """The dictionaries as a consumer has them."""
        columns = self.bounds.to_pydict()
        return Dictionaries(
            dict(zip(columns["column"], columns["maximum"])),
            dict(zip(columns["column"], columns["minimum"])),
            dict(zip(self.ids["token"].to_pylist(), self.ids["id"].to_pylist())),
        )


# --- writing


def write_version(directory: Path, manifest: Manifest, contents: Contents) -> Manifest:
    """Writes a version's folder, which is whole and durable on return.

    Args:
        directory: The folder of versions.
        manifest: What the version is; ``files`` is not used.
        contents: What is in it.

    Returns:
        The manifest with its files.

    Raises:
        PublishingError: It could not be written; nothing of it is left, if that is possible.
    """
    aside = directory / f"{ASIDE}{manifest.name}"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        files = {name: _write(aside / name, pieces) for name, pieces in _files_of(contents)}
        manifest = replace(manifest, files=files)
        _write(aside / MANIFEST, [manifest.to_json()])
        fsync_directory(aside)
        os.rename(aside, directory / manifest.name)
        fsync_directory(directory)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise PublishingError(
            f"can't write version {directory / manifest.name}: {error.strerror}"
        ) from None
    return manifest


def _files_of(contents: Contents) -> Iterable[tuple[str, Iterable[Any]]]:
    arrays = dict(contents.whole)
    for name, (rows, values) in contents.rows.items():
        arrays[name + _ROWS], arrays[name + _VALUES] = rows, values
    yield WEIGHTS, pieces_of(arrays)
    vocabulary = contents.vocabulary
    if vocabulary is not None:
        is_free = vocabulary.fields == FREE
        columns = [
            pa.array(vocabulary.ids, pa.int32()),
            pa.array(vocabulary.fields, pa.int8(), mask=is_free),
            pa.array(vocabulary.values, pa.large_binary(), mask=is_free),
        ]
        yield VOCABULARY, [_arrow_bytes(pa.table(columns, schema=_VOCABULARY_SCHEMA))]
    if contents.dictionaries is not None:
        yield IDS, [_arrow_bytes(contents.dictionaries.ids)]
        yield BOUNDS, [_arrow_bytes(contents.dictionaries.bounds)]


def _arrow_bytes(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _write(path: Path, pieces: Iterable[Any]) -> FileEntry:
    checksum, size = 0, 0
    with open(path, "xb") as file:
        for piece in pieces:
            checksum = crc32c(piece, checksum)
            size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(size, f"{checksum:08x}")


# --- reading


def is_version_name(name: str) -> bool:
    """Whether a folder of this name may be a version."""
    return _NAME.fullmatch(name) is not None


def read_manifest(folder: Path) -> Manifest:
    """What the version in a folder is; of its files only the manifest is read.

    Raises:
        PublishingError: It is missing, torn, damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_bytes())
        if fields.pop("manifest_crc32c") != _checksum_of(fields):
            raise PublishingError(f"{path} is damaged: its checksum differs")
        if fields.pop("format") != FORMAT:
            raise PublishingError(f"{path} is of another format, expected {FORMAT}")
        fields["position"] = Position.from_json(json.dumps(fields["position"]))
        fields["files"] = {name: FileEntry(**entry) for name, entry in fields["files"].items()}
        manifest = Manifest(**fields)
    except OSError as error:
        raise PublishingError(f"{path}: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise PublishingError(f"{path} is damaged: {error}") from None
    if manifest.name != folder.name:
        raise PublishingError(f"{path} is the manifest of {manifest.name}")
    return manifest


def read_contents(directory: Path, manifest: Manifest) -> Contents:
    """What is in a version; every checksum is verified.

    Raises:
        PublishingError: A file is missing, torn or damaged.
    """
    folder = directory / manifest.name
    whole: dict[str, Array] = {}
    rows: dict[str, tuple[Array, Array]] = {}
    try:
        arrays = parse_tensors(_verified(folder, manifest, WEIGHTS))
        for name, array in arrays.items():
            if name.endswith(_ROWS):
                table = name[: -len(_ROWS)]
                rows[table] = (array, arrays[table + _VALUES])
            elif not name.endswith(_VALUES):
                whole[name] = array
        return Contents(
            whole, rows, _read_vocabulary(folder, manifest), _read_dictionaries(folder, manifest)
        )
    except OSError as error:
        raise PublishingError(f"{error.filename or folder}: {error.strerror}") from None
    except (TensorFileError, pa.ArrowException, KeyError, ValueError) as error:
        raise PublishingError(f"{folder} is damaged: {error}") from None


def _read_vocabulary(folder: Path, manifest: Manifest) -> VocabularyChange | None:
    if VOCABULARY not in manifest.files:
        return None
    table = _table(_verified(folder, manifest, VOCABULARY), _VOCABULARY_SCHEMA)
    fields = table["field"].fill_null(FREE).to_numpy().astype(np.int8)
    if ((fields < FREE) | (fields >= CATEGORICAL_SIZE)).any():
        raise ValueError(f"{VOCABULARY} has a field that is none of C1 … C26")
    pieces = table["value"].chunks or [pa.array([], pa.large_binary())]
    values, is_whole = fixed_width(pa.concat_arrays(pieces), MAX_VALUE_BYTES)
    if not is_whole.all():
        raise ValueError(f"{VOCABULARY} has a value that no trainer learns")
    return VocabularyChange(table["id"].to_numpy().astype(np.int32), fields, values)


def _read_dictionaries(folder: Path, manifest: Manifest) -> DictionaryTables | None:
    if IDS not in manifest.files:
        return None
    return DictionaryTables(
        _table(_verified(folder, manifest, IDS), _IDS_SCHEMA),
        _table(_verified(folder, manifest, BOUNDS), _BOUNDS_SCHEMA),
    )


def _table(data: bytes, schema: pa.Schema) -> pa.Table:
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    if table.schema != schema:
        raise ValueError(f"a table has columns {table.schema.names}, not {schema.names}")
    return table


def _verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The bytes of a file, as they were written."""
    expected = manifest.files[name]
    data = (folder / name).read_bytes()
    if len(data) != expected.bytes:
        raise PublishingError(f"{folder / name} has {len(data)} bytes, expected {expected.bytes}")
    checksum = f"{crc32c(data):08x}"
    if checksum != expected.crc32c:
        raise PublishingError(
            f"{folder / name} has checksum {checksum}, expected {expected.crc32c}"
        )
    return data


def _checksum_of(fields: Mapping[str, Any]) -> str:
    return f"{crc32c(json.dumps(fields, sort_keys=True).encode()):08x}"


def is_finite(array: Array) -> bool:
    """Whether every number is finite; the sum of others never is, and is found in half the time."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def patch(arrays: dict[str, Array], contents: Contents) -> None:
    """Makes the arrays of the version before those of this one; for a full one they may be empty.

    Args:
        arrays: By name; changed in place, so they must be writable.
        contents: Of the next version.

    Raises:
        PublishingError: The version does not fit the arrays. They may be changed in part.
    """
    for name, array in contents.whole.items():
        known = arrays.get(name)
        if known is None or known.shape != array.shape:
            arrays[name] = array.copy()
        else:
            known[:] = array
    for name, (rows, values) in contents.rows.items():
        table = arrays.get(name)
        if table is None or values.shape != (len(rows), *table.shape[1:]):
            raise PublishingError(f"{name} has no rows of the shape {values.shape[1:]}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
            raise PublishingError(f"{name} has {len(table)} rows, not all of those that change")
        table[rows] = values
