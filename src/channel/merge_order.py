"""The order in which the rows of several partitions become one stream: round robin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.process.arrays import Array


def merge_order(
    counts: Sequence[int], exhausted: Sequence[bool], first: int, limit: int
) -> tuple[Array, Array]:
    """Merges the rows that wait in each partition in round-robin order.

    The order depends only on the first partition and on the rows themselves, not on how they were
    fetched. A partition without waiting rows is skipped if the topic has no more of its rows. If
    the topic has more, the merge stops there until they are fetched.

    Args:
        counts: Rows waiting, by partition.
        exhausted: Whether the topic has no rows beyond those waiting, by partition.
        first: The partition that the first row is taken from.
        limit: The most rows to take.

    Returns:
        (partition int64[rows], place int64[rows]): the partition of each merged row, and its place
        among that partition's waiting rows.
    """
    if not counts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    partition = np.repeat(np.arange(len(counts)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    place_in_round = (partition - first) % len(counts)
    order = np.lexsort((place_in_round, place))
    unfetched = [  # where in the round-robin order the next row of a partition is missing
        count * len(counts) + (number - first) % len(counts)
        for number, (count, done) in enumerate(zip(counts, exhausted))
        if not done
    ]
    slot = place[order] * len(counts) + place_in_round[order]
    taken = len(order) if not unfetched else int(np.searchsorted(slot, min(unfetched)))
    order = order[: min(taken, limit)]
    return partition[order].astype(np.int64), place[order].astype(np.int64)
