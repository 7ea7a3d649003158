"""``feed``: windows in memory → batches inside MindSpore.

Our windows are as large as those that the consumer sends where rows wait, by its default. Windows
of the smaller size are measured as well. The limit is MindSpore's pipeline itself, with a source
that returns one ready batch again and again.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, cast

import numpy as np
from mindspore.dataset import GeneratorDataset
from mindspore.dataset import config as dataset_config

from benchmarks.documented.dataset import RowDataset, row_batches
from benchmarks.inputs import dictionary_files, lines
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.timing import alternate, medians
from src.channel.closing_rule import DEFAULT_MAX_WINDOW_SIZE
from src.channel.receiver import WindowReceiver
from src.channel.window import Provenance, make_window
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.process.memory import keep_freed_memory
from src.process.stop import StopFlag
from src.rows.parsing import parse_messages
from src.stream.position import Position
from src.trainer.admission import StreamStart
from src.trainer.dataset import UNBOUNDED_LENGTH, StreamingDataset
from src.trainer.service import READ_AHEAD_BATCHES

SESSION = 1
DOCUMENTED_SHARE = 10  # the documented way gets the first tenth of the rows
STOCK_PREFETCH = 16

Batch = Sequence[Any]
"""id, weight and label of a batch: NumPy arrays, or tensors from MindSpore."""


class ListedWindows:
    """A receiver of windows that are in memory already."""

    def __init__(self, windows: Sequence[Array]) -> None:
        self._windows = deque(windows)

    def receive(self, timeout_seconds: float, give_up: Callable[[], bool]) -> Array | None:
        """The next window; None when there is none left."""
        return self._windows.popleft() if self._windows else None

    def close(self) -> None:
        """Nothing to close."""


class ReadyBatches:
    """Returns the same batch for ever."""

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
        windows.append(
            make_window(ids, weights, rows.label, provenance, 1, SESSION, 1, builder.oov(ids))
        )
    return windows


def taken_together(windows: Sequence[Array]) -> list[Array]:
    """The same rows in windows as large as the consumer sends where rows wait."""
    count = max(1, DEFAULT_MAX_WINDOW_SIZE // len(windows[0]))
    return [
        np.concatenate(windows[start : start + count]) for start in range(0, len(windows), count)
    ]


def documented_windows(windows: Sequence[Array]) -> list[Array]:
    """The same windows as the documented consumer sends them: object arrays [rows, 3]."""
    converted = []
    for window in windows:
        cells = np.empty((len(window), 3), dtype=object)
        for place, row in enumerate(window):
            cells[place] = row["id"].copy(), row["weight"].copy(), np.array([int(row["label"])])
        converted.append(cells)
    return converted


@dataclass(frozen=True)
class Reading:
    """Batches, and the seconds that reading them took."""

    batches: Sequence[Batch]
    seconds: float

    @property
    def rate(self) -> float:
        """Rows per second."""
        return sum(len(batch[0]) for batch in self.batches) / self.seconds


def read_own(windows: Sequence[Array], batch_size: int, count: int) -> Reading:
    """This project's batches, in the pipeline that ``online_train`` makes."""
    flag = StopFlag()
    receiver = cast(WindowReceiver, ListedWindows(windows))
    start = StreamStart(Position({0: 0}), SESSION)
    stream = StreamingDataset(receiver, start, batch_size, flag, attach=lambda: None)
    return _read(_whole_batches(stream), flag, count, stream.next_batch)


def read_ready(batch: Batch, count: int) -> Reading:
    """The limit's batches."""
    return _read(_whole_batches(ReadyBatches(batch)), StopFlag(), count)


def _whole_batches(source: Any) -> Any:
    dataset_config.set_prefetch_size(READ_AHEAD_BATCHES)
    return GeneratorDataset(
        source, column_names=["id", "weight", "label"], shuffle=False, python_multiprocessing=False
    )


def read_documented(windows: Sequence[Array], batch_size: int, count: int) -> Reading:
    """The documented batches."""
    waiting = deque(windows)
    last = windows[-1]
    # Read-ahead beyond the requested rows gets the last window again.
    source = RowDataset(lambda: waiting.popleft() if waiting else last)
    dataset_config.set_prefetch_size(STOCK_PREFETCH)
    return _read(row_batches(source, batch_size), StopFlag(), count)


def _read(
    dataset: Any, flag: StopFlag, count: int, after_batch: Callable[[], Any] = lambda: None
) -> Reading:
    """Reads as RecModel's own loop does; the end of the pipeline is not timed.

    Args:
        dataset: The pipeline.
        flag: Ends it.
        count: Batches to read.
        after_batch: What the trainer does with each batch besides training.
    """
    iterator = dataset.create_tuple_iterator(num_epochs=-1, do_copy=True)
    batches = []
    began = time.perf_counter()
    for batch in itertools.islice(iterator, count):
        batches.append(batch)
        after_batch()
    seconds = time.perf_counter() - began
    flag.set("enough")  # else the pipeline's thread would wait for rows that never come
    iterator.stop()
    return Reading(batches, seconds)


def check_equal(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    """Fails unless both have the same batches."""
    assert len(one) == len(other)
    for ours, theirs in zip(one, other):
        for mine, wanted in zip(ours, theirs):
            np.testing.assert_array_equal(mine.asnumpy(), wanted.asnumpy())


def run(settings: Settings) -> list[Result]:
    """Measures each batch size, rows/s."""
    keep_freed_memory()  # as the trainer does
    windows = make_windows(settings)
    few = documented_windows(windows[: max(1, len(windows) // DOCUMENTED_SHARE)])
    return [_measure(size, windows, few, settings.repeats) for size in settings.batches]


def _measure(size: int, windows: Sequence[Array], few: Sequence[Array], repeats: int) -> Result:
    count = sum(map(len, windows)) // size
    few_count = sum(map(len, few)) // size
    if not few_count:
        raise ValueError(
            f"a batch of {size} rows needs --rows of at least {size * DOCUMENTED_SHARE}"
        )
    together = taken_together(windows)
    own = read_own(together, size, few_count).batches
    check_equal(own, read_documented(few, size, few_count).batches)
    ready = [column.asnumpy() for column in own[0]]
    one_by_one = f"ours_in_windows_of_{len(windows[0])}"
    ways = {
        "documented": lambda: read_documented(few, size, few_count).rate,
        "ours": lambda: read_own(together, size, count).rate,
        one_by_one: lambda: read_own(windows, size, count).rate,
        "limit": lambda: read_ready(ready, count).rate,
    }
    median = medians(alternate(ways, repeats, f"feed, batch {size}"))
    return Result.of_medians(f"feed_{size}", "rows/s", median, **{one_by_one: median[one_by_one]})
