"""Tensors of the Open Inference Protocol: columns of a request, in JSON or in binary form.

In binary form the numbers come after the JSON text, one tensor after the other. An INT64 is eight
bytes, the lowest first. A BYTES element is its length, four bytes, and then its content.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.process.arrays import Array
from src.rows.criteo import CATEGORICAL_COLUMNS, DENSE_COLUMNS, ROW
from src.rows.short_repr import short_repr
from src.scoring.requests.errors import RequestError
from src.scoring.requests.rows import Column

DATATYPES = {
    **dict.fromkeys(DENSE_COLUMNS, "INT64"),
    **dict.fromkeys(CATEGORICAL_COLUMNS, "BYTES"),
    ROW: "BYTES",
}
"""The inputs, and what each is made of."""
BINARY_SIZE = "binary_data_size"
_LENGTH_BYTES = 4


def columns_of(inputs: Any, binary: bytes, max_rows: int) -> tuple[dict[str, Column], int]:
    """The inputs of a request.

    Args:
        inputs: The list of tensors in the JSON text.
        binary: What comes after it.
        max_rows: The most rows.

    Returns:
        (columns by name, the number of rows).

    Raises:
        RequestError: A tensor has another form, or they don't fit each other.
    """
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(400, "inputs must be a list of tensors")
    columns: dict[str, Column] = {}
    count, begin = -1, 0
    for tensor in inputs:
        name = _checked_name(tensor)
        if name in columns:
            raise RequestError(400, f"input {name} is there twice")
        rows = _rows(name, tensor)
        if rows > max_rows:
            raise RequestError(413, f"{rows} rows, at most {max_rows} are taken")
        if count not in (-1, rows):
            raise RequestError(400, f"input {name} has {rows} rows, others have {count}")
        count = rows
        size = _binary_size(name, tensor)
        if size is None:
            columns[name] = _from_json(name, tensor, rows)
        else:
            data = binary[begin : begin + size]
            if len(data) < size:
                raise RequestError(400, f"input {name} is cut off")
            columns[name] = _from_binary(name, data, rows)
            begin += size
    if begin != len(binary):
        raise RequestError(400, f"{len(binary) - begin} bytes after the last input")
    return columns, count


def _checked_name(tensor: Any) -> str:
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str) or name not in DATATYPES:
        raise RequestError(400, f"input {short_repr(name)} is none of I1..I13, C1..C26, {ROW}")
    datatype = tensor.get("datatype")
    if datatype != DATATYPES[name]:
        raise RequestError(
            400, f"input {name} must be {DATATYPES[name]}, not {short_repr(datatype)}"
        )
    return name


def _rows(name: str, tensor: Mapping[str, Any]) -> int:
    shape = tensor.get("shape")
    is_shape = (
        isinstance(shape, list)
        and all(type(length) is int and length >= 0 for length in shape)
        and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))
    )
    if not is_shape:
        raise RequestError(400, f"input {name} must have shape [n] or [n, 1]")
    return int(tensor["shape"][0])


def _binary_size(name: str, tensor: Mapping[str, Any]) -> int | None:
    parameters = tensor.get("parameters") or {}
    size = parameters.get(BINARY_SIZE) if isinstance(parameters, dict) else -1
    if size is None and "data" not in tensor:
        raise RequestError(400, f"input {name} has neither data nor {BINARY_SIZE}")
    if size is not None and (type(size) is not int or size < 0):
        raise RequestError(400, f"input {name}: {BINARY_SIZE} must be a number of bytes")
    return size


def _from_json(name: str, tensor: Mapping[str, Any], rows: int) -> Sequence[Any]:
    data = flat(tensor["data"])
    if data is None:
        raise RequestError(400, f"input {name}: data must be a list")
    if len(data) != rows:
        raise RequestError(400, f"input {name} has {len(data)} elements, its shape says {rows}")
    return data


def flat(data: Any) -> list[Any] | None:
    """A list of elements, or of lists of one element each, as a list of elements; else None."""
    if not isinstance(data, list):
        return None
    if set(map(type, data)) == {list} and set(map(len, data)) == {1}:
        return [element for (element,) in data]
    return data


def _from_binary(name: str, data: bytes, rows: int) -> Column:
    if DATATYPES[name] == "INT64":
        if len(data) != rows * 8:
            raise RequestError(400, f"input {name} has {len(data)} bytes for {rows} INT64")
        return np.frombuffer(data, dtype="<i8")
    elements = _equally_long(data, rows)
    if elements is None:
        elements = _elements(data)
    if elements is None or len(elements) != rows:
        raise RequestError(400, f"input {name} does not hold {rows} elements of BYTES")
    return elements


def _equally_long(data: bytes, rows: int) -> list[bytes] | None:
    """The elements of a BYTES tensor without a loop; None where they differ in length."""
    width = len(data) // max(rows, 1)
    if width <= _LENGTH_BYTES or len(data) != width * rows:
        return None
    cells = np.frombuffer(data, dtype=np.uint8).reshape(rows, width)
    lengths, contents = (
        np.ascontiguousarray(part) for part in np.split(cells, [_LENGTH_BYTES], axis=1)
    )
    length = width - _LENGTH_BYTES
    if (lengths.view("<u4") != length).any() or not contents.all():  # NumPy cuts off NULs
        return None
    elements: list[bytes] = contents.view(f"S{length}").ravel().tolist()
    return elements


def _elements(data: bytes) -> list[bytes] | None:
    """The elements of a BYTES tensor; None where it is cut off."""
    elements = []
    begin = 0
    while begin < len(data):
        content = begin + _LENGTH_BYTES
        if content > len(data):
            return None
        (length,) = struct.unpack_from("<I", data, begin)
        begin = content + length
        elements.append(data[content:begin])
    return elements if begin == len(data) else None


def binary_strings(texts: Sequence[str]) -> bytes:
    """A BYTES tensor in binary form."""
    encoded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def binary_floats(numbers: Array) -> bytes:
    """An FP32 tensor in binary form."""
    return numbers.astype("<f4").tobytes()
