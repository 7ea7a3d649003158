"""What the ranks exchange in a training step: gradients, ids, loss and logits, in one AllReduce.

Each rank has b rows of a global batch of N · b. The ranks' gradients, summed and divided by N, are
those of the mean loss over the global batch. Of an embedding table only the rows in the batch have
a gradient from the loss. So at most n = b · f rows per rank travel, with their ids, however large
the vocabulary is. Each rank then moves its whole, equal table by itself.

One buffer and one AllReduce: several could be started in a different order on different ranks.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

ID_BASE = 1 << 16  # an id travels as two float32, each exact
NOTHING: tuple[Tensor, ...] = ()  # a graph can't hold annotated assignments, so it stands here


class Exchange(nn.Cell):  # type: ignore[misc]
    """Turns the results of a rank's part of the batch into those of the global batch.

    The buffer is ``[gradients of the dense layers, loss | slot of rank 0 | … | slot of rank N-1]``.
    Shared values are summed. A rank's own values are in its slot, which is zero in the buffers of
    the others.

    Args:
        rank: This rank.
        size: N, how many ranks there are.
        emb_dim: e, width of an embedding.
        ids: n, ids of a rank's batch.
        rows: b, rows of a rank's batch.
        shapes: Shapes of the dense layers' weights and biases.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        emb_dim: int,
        ids: int,
        rows: int,
        shapes: tuple[tuple[int, ...], ...],
    ) -> None:
        super().__init__()
        self.size, self.emb_dim, self.ids, self.rows = size, emb_dim, ids, rows
        self.shapes = shapes
        self.sizes = tuple(_product(shape) for shape in shapes)
        self.slot = ids * (emb_dim + 3) + rows
        self.before, self.after = rank * self.slot, (size - 1 - rank) * self.slot
        self.all_reduce = ops.AllReduce()
        self.concat = ops.Concat()

    @property
    def bytes_reduced(self) -> int:
        """Length of the buffer."""
        return 4 * (sum(self.sizes) + 1 + self.size * self.slot)

    def construct(
        self,
        ids: Tensor,
        wide: Tensor,
        deep: Tensor,
        weights: tuple,  # type: ignore[type-arg]
        loss: Tensor,
        logit: Tensor,
    ) -> tuple:  # type: ignore[type-arg]
        """Local → global.

        Args:
            ids: int32 [n].
            wide: float32 [n, 1], gradient of the wide rows at ``ids``.
            deep: float32 [n, e], gradient of the embeddings at ``ids``.
            weights: Gradients of the dense layers.
            loss: float32 [], mean over the rank's rows.
            logit: float32 [b, 1].

        Returns:
            The same over all ranks: [N · n], [N · n, 1], [N · n, e], the layers' gradients, the
            mean loss over the global batch, and [N · b, 1], rank by rank.
        """
        parts = self.local_parts(ids, wide, deep, weights, loss, logit)
        buffer = self.all_reduce(self.concat(parts))
        begin = 0
        layers = NOTHING
        for shape, size in zip(self.shapes, self.sizes):
            layers += (buffer[begin : begin + size].reshape(shape),)
            begin += size
        mean_loss = buffer[begin]
        slots = buffer[begin + 1 :].reshape((self.size, self.slot))
        n, e = self.ids, self.emb_dim
        at = n * e
        high = slots[:, at + n : at + 2 * n].reshape((-1,)).astype(ms.int32)
        low = slots[:, at + 2 * n : at + 3 * n].reshape((-1,)).astype(ms.int32)
        return (
            high * ID_BASE + low,
            slots[:, at : at + n].reshape((-1, 1)),
            slots[:, :at].reshape((-1, e)),
            layers,
            mean_loss,
            slots[:, at + 3 * n :].reshape((-1, 1)),
        )

    def local_parts(
        self,
        ids: Tensor,
        wide: Tensor,
        deep: Tensor,
        weights: tuple,  # type: ignore[type-arg]
        loss: Tensor,
        logit: Tensor,
    ) -> tuple:  # type: ignore[type-arg]
        """The buffer in pieces, every gradient and the loss divided by N already."""
        share = 1.0 / self.size
        parts = NOTHING
        for gradient in weights:
            parts += (gradient.reshape((-1,)) * share,)
        parts += (loss.reshape((1,)) * share,)
        if self.before > 0:
            parts += (ops.zeros((self.before,), ms.float32),)
        high = ids // ID_BASE
        parts += (
            deep.reshape((-1,)) * share,
            wide.reshape((-1,)) * share,
            high.astype(ms.float32),
            (ids - high * ID_BASE).astype(ms.float32),
            logit.reshape((-1,)),
        )
        if self.after > 0:
            parts += (ops.zeros((self.after,), ms.float32),)
        return parts


class RowExchange(nn.Cell):  # type: ignore[misc]
    """Gives every rank the keys and labels of all ranks' rows, in one AllReduce.

    Args:
        rank: This rank.
        size: N, how many ranks there are.
        rows: b, rows of a rank's batch.
        fields: f, keys of a row.
    """

    def __init__(self, rank: int, size: int, rows: int, fields: int) -> None:
        super().__init__()
        self.width = 2 * fields + 1
        self.fields = fields
        self.before, self.after = rank * rows, (size - 1 - rank) * rows
        self.all_reduce = ops.AllReduce()
        self.concat = ops.Concat()

    def construct(self, key: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Key int32 [b, f] and label float32 [b, 1] → the same of [N · b] rows, rank by rank."""
        high = key // ID_BASE
        own = ops.concat((high.astype(ms.float32), (key - high * ID_BASE).astype(ms.float32)), 1)
        parts = NOTHING
        if self.before > 0:
            parts += (ops.zeros((self.before, self.width), ms.float32),)
        parts += (ops.concat((own, label), 1),)
        if self.after > 0:
            parts += (ops.zeros((self.after, self.width), ms.float32),)
        rows = self.all_reduce(self.concat(parts))
        high = rows[:, : self.fields].astype(ms.int32)
        low = rows[:, self.fields : 2 * self.fields].astype(ms.int32)
        return high * ID_BASE + low, rows[:, 2 * self.fields :]


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
