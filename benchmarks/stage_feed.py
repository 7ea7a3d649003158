"""``feed``: windows that are at hand → batches inside MindSpore.

The limit is what MindSpore's pipeline itself can do: a source that hands out one ready batch again
and again.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional, cast

import numpy as np
from mindspore.dataset import GeneratorDataset
from mindspore.dataset import config as dataset_config

from benchmarks import documented
from benchmarks.inputs import dictionary_files, lines
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.timing import medians, rate_of, take_turns
from src.arrays import Array
from src.channel import WindowReceiver
from src.consume import FeatureBuilder
from src.criteo import parse_messages
from src.dataset import UNBOUNDED_LENGTH, StreamingDataset
from src.position import Position
from src.stop import StopFlag
from src.train import COLUMN_NAMES, READ_AHEAD_BATCHES
from src.window import Provenance, make_window

SESSION = 1
DOCUMENTED_SHARE = 10  # the documented way gets the first tenth of the rows
STOCK_PREFETCH = 16

Batch = Sequence[Array]


class WindowsAtHand:
    """A receiver of windows that are there already."""

    def __init__(self, windows: Sequence[Array]) -> None:
        self._windows = deque(windows)

    def receive(self, timeout_seconds: float, give_up: Callable[[], bool]) -> Optional[Array]:
        """The next window; None when there is none left."""
        return self._windows.popleft() if self._windows else None

    def close(self) -> None:
        """Nothing to leave."""


class ReadyBatches:
    """Hands out the same batch for ever."""

    def __init__(self, batch: Batch) -> None:
        self._batch = tuple(batch)

    def __len__(self) -> int:
        return UNBOUNDED_LENGTH

    def __iter__(self) -> ReadyBatches:
        return self

    def __next__(self) -> tuple[Array, ...]:
        return self._batch


def make_windows(settings: Settings) -> list[Array]:
    """The rows as windows of the first window size, as the consumer sends them."""
    size = settings.windows[0]
    builder = FeatureBuilder(dictionary_files(settings.work_dir).load())
    values = lines(settings.work_dir, settings.rows)
    windows = []
    for start in range(0, len(values) - size + 1, size):
        rows = parse_messages(values[start : start + size])
        offset = np.arange(start, start + size, dtype=np.int64)
        zeros = np.zeros(size, dtype=np.int64)
        provenance = Provenance(zeros.astype(np.int32), offset, offset, zeros)
        ids, weights = builder.build(rows)
        windows.append(make_window(ids, weights, rows.label, provenance, 1, SESSION, 1))
    return windows


def documented_windows(windows: Sequence[Array]) -> list[Array]:
    """The same windows as the documented consumer sends them: object arrays [rows, 3]."""
    converted = []
    for window in windows:
        cells = np.empty((len(window), 3), dtype=object)
        for place, row in enumerate(window):
            cells[place] = row["id"].copy(), row["weight"].copy(), np.array([int(row["label"])])
        converted.append(cells)
    return converted


def own_batches(windows: Sequence[Array], batch_size: int) -> Iterator[Batch]:
    """This project's batches, as ``online_train`` reads them."""
    flag = StopFlag()
    receiver = cast(WindowReceiver, WindowsAtHand(windows))
    stream = StreamingDataset(lambda: receiver, Position({0: 0}), SESSION, batch_size, flag)
    return _whole_batches(stream, flag)


def ready_batches(batch: Batch) -> Iterator[Batch]:
    """The limit's batches."""
    return _whole_batches(ReadyBatches(batch), StopFlag())


def _whole_batches(source: Any, flag: StopFlag) -> Iterator[Batch]:
    dataset_config.set_prefetch_size(READ_AHEAD_BATCHES)
    dataset = GeneratorDataset(
        source, COLUMN_NAMES, shuffle=False, num_parallel_workers=1, python_multiprocessing=False
    )
    return _read(dataset, flag)


def row_batches(windows: Sequence[Array], batch_size: int) -> Iterator[Batch]:
    """The documented batches."""
    flag = StopFlag()
    waiting = deque(windows)
    last = windows[-1]
    # Read-ahead beyond the rows that are asked for gets the last window again.
    source = documented.RowDataset(lambda: waiting.popleft() if waiting else last)
    dataset_config.set_prefetch_size(STOCK_PREFETCH)
    return _read(documented.row_batches(source, batch_size), flag)


def _read(dataset: Any, flag: StopFlag) -> Iterator[Batch]:
    """Batches as RecModel's own loop gets them."""
    try:
        yield from dataset.create_tuple_iterator(num_epochs=-1, do_copy=True)
    finally:
        flag.set("enough")  # ends a wait for rows that won't come


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    """The first so many batches."""
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def check_equal(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    """Fails unless both have the same batches."""
    assert len(one) == len(other)
    for ours, theirs in zip(one, other):
        for mine, wanted in zip(ours, theirs):
            np.testing.assert_array_equal(mine.asnumpy(), wanted.asnumpy())


def run(settings: Settings) -> list[Result]:
    """Measures each batch size, rows/s."""
    windows = make_windows(settings)
    few = documented_windows(windows[: max(1, len(windows) // DOCUMENTED_SHARE)])
    return [_measure(size, windows, few, settings.repeats) for size in settings.batches]


def _measure(
    size: int, windows: Sequence[Array], few: Sequence[Array], repeats: int
) -> Result:
    count = sum(map(len, windows)) // size
    few_count = sum(map(len, few)) // size
    if not few_count:
        raise ValueError(f"a batch of {size} rows needs --rows of at least {size * DOCUMENTED_SHARE}")
    batches = take(own_batches(windows, size), few_count)
    check_equal(batches, take(row_batches(few, size), few_count))
    ready = [column.asnumpy() for column in batches[0]]
    ways = {
        "documented": lambda: rate_of(
            lambda: take(row_batches(few, size), few_count), few_count * size
        ),
        "ours": lambda: rate_of(lambda: take(own_batches(windows, size), count), count * size),
        "limit": lambda: rate_of(lambda: take(ready_batches(ready), count), count * size),
    }
    median = medians(take_turns(ways, repeats, f"feed, batch {size}"))
    return Result(
        f"feed_{size}", median["documented"], median["ours"], "rows/s", median["limit"]
    )
