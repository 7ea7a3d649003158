"""The ranks of a launch, and what they exchange outside the training step.

All exchange uses one operator, the AllReduce of float32: on the CPU MindSpore 2.0.0 has no other. A
rank fills its own slot of a zero buffer, so the sum holds every rank's slot exactly. Bytes travel
two at a time, as whole numbers below 65536, so every bit pattern arrives unchanged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from crc32c import crc32c
from mindspore import Tensor, nn, ops

from src.process.arrays import Array
from src.ranks.heartbeat import HeartbeatWriter
from src.ranks.placement import RankError

logger = logging.getLogger(__name__)

MEETING_SECONDS = 600
CHUNK_FLOATS = 1 << 20


class _Sum(nn.Cell):  # type: ignore[misc]
    """Adds the ranks' tensors up."""

    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        """Float32 of any shape → the same shape, equal on all ranks."""
        return self.all_reduce(x)


class Ranks:
    """All ranks, seen from one of them. All ranks must call each method together.

    Args:
        rank: This one's number, from 0.
        size: How many there are.
        heartbeat: Counts the exchanges.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, heartbeat: HeartbeatWriter | None = None
    ) -> None:
        self.rank = rank
        self.size = size
        self._heartbeat = heartbeat or HeartbeatWriter(None)
        self._cell = _Sum() if size > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this rank prints and writes for all."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    def sum(self, values: Array) -> Array:
        """The sum over all ranks.

        Args:
            values: float32 of any shape, the same on all ranks.

        Raises:
            RankError: The others don't answer (on the CPU: for half a minute).
        """
        if self._cell is None:
            return values
        self._heartbeat.rounds += 1
        try:
            result: Array = self._cell(Tensor(values, ms.float32)).asnumpy()
        except RuntimeError as error:
            raise RankError(f"rank {self.rank}: the others are lost: {first_line(error)}") from None
        return result

    def gather(self, row: Array) -> Array:
        """Every rank's row: float32[width] → float32[size, width]; denormals become 0."""
        slots = np.zeros((self.size, len(row)), np.float32)
        slots[self.rank] = row
        return self.sum(slots)

    def share(self, message: Any) -> Any:
        """Rank 0's message, on all ranks; the others' is ignored.

        Args:
            message: Anything that JSON can express.
        """
        if self.alone:
            return message
        data = json.dumps(message).encode() if self.is_first else b""
        length = self.sum(_halves(np.array([len(data)], np.uint64).tobytes()))
        nbytes = int(np.frombuffer(_bytes(length), np.uint64)[0])
        return json.loads(self._broadcast(data, nbytes))

    def differing(self, network: nn.Cell) -> dict[str, list[int]]:
        """Parameters that are not equal on all ranks, by name, with the ranks unlike rank 0."""
        return self._unlike(network, checksums(network))

    def _unlike(self, network: nn.Cell, sums: Array) -> dict[str, list[int]]:
        found = self.gather(_halves(sums.tobytes()))
        unlike = (found != found[0]).reshape(self.size, len(sums), 2).any(axis=2)
        return {
            parameter.name: np.flatnonzero(unlike[:, number]).tolist()
            for number, parameter in enumerate(network.get_parameters())
            if unlike[:, number].any()
        }

    def verify_equal(self, network: nn.Cell) -> None:
        """Compares a checksum of every parameter's bits across the ranks, and logs one of all.

        Raises:
            RankError: Names the ranks that are unlike rank 0, and in what.
        """
        if self.alone:
            return
        sums = checksums(network)
        differing = self._unlike(network, sums)
        if differing:
            ranks = sorted({rank for unlike in differing.values() for rank in unlike})
            raise RankError(
                f"rank {', '.join(map(str, ranks))} differs from rank 0 in "
                f"{_some(list(differing))}: the ranks no longer train one model"
            )
        logger.info(
            "the %d ranks hold equal weights, checksum %08x",
            self.size,
            crc32c(sums.tobytes()),
        )

    def make_equal(self, network: nn.Cell) -> int:
        """Gives all ranks rank 0's parameters, bit by bit, where they differ, and verifies it.

        Returns:
            How many parameters were sent.

        Raises:
            RankError: They differ all the same.
        """
        if self.alone:
            return 0
        differing = self.differing(network)
        for parameter in network.get_parameters():
            if parameter.name in differing:
                values = np.ascontiguousarray(parameter.asnumpy())
                data = self._broadcast(values.tobytes() if self.is_first else b"", values.nbytes)
                if not self.is_first:
                    # Not the shape of `values`: a scalar has become an array of one there.
                    sent = np.frombuffer(data, values.dtype).reshape(parameter.shape)
                    parameter.set_data(Tensor(sent.copy(), parameter.dtype))
        self.verify_equal(network)
        return len(differing)

    def _broadcast(self, data: bytes, nbytes: int) -> bytes:
        """Rank 0's bytes, on all ranks."""
        parts = []
        for begin in range(0, nbytes, 2 * CHUNK_FLOATS):
            size = min(2 * CHUNK_FLOATS, nbytes - begin)
            part = data[begin : begin + size] if self.is_first else bytes(size)
            parts.append(_bytes(self.sum(_halves(part + bytes(size % 2))))[:size])
        return b"".join(parts)


def checksums(network: nn.Cell) -> Array:
    """uint32[parameters]: the CRC-32C of each parameter's bits."""
    parameters = network.get_parameters()
    sums = [crc32c(np.ascontiguousarray(p.asnumpy()).data) for p in parameters]
    return np.array(sums, np.uint32)


def first_line(error: BaseException) -> str:
    """The first line of a MindSpore error, without rulers and the C++ stack."""
    return next((line for line in str(error).splitlines() if line.strip(" -")), "")[:200]


def _halves(data: bytes) -> Array:
    """Bytes two at a time, as float32 that sums of one of them and zeros keep exact."""
    return np.frombuffer(data, np.uint16).astype(np.float32)


def _bytes(halves: Array) -> bytes:
    return halves.astype(np.uint16).tobytes()


def _some(names: Sequence[str], shown: int = 3) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
