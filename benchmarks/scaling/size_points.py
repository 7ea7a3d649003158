"""What ``sizes.py`` measures: one size at a time is varied, all else is as documented."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.inputs import HISTORY_ROWS, dictionary_files, lines, row_files
from benchmarks.settings import Settings
from examples.sample.rows import write_sample

Outcome = tuple[float, str, dict[str, float]]
"""(rate, its unit, other numbers); "peak_mb" among the others replaces the process's own peak."""

WINDOW_ROWS = 200_000
BATCH_STEPS = 10
PARTITION_ROWS = 100_000
LOOK_UP_ROWS = 100_000
LOOK_UP_DISTINCT = 5_000
LOOK_UPS = 10
DICTIONARY_FILES = ("all_val_max_dict.pkl", "all_val_min_dict.pkl", "cat2id_dict.pkl")
MEASURED_SECONDS = 5.0


@dataclass(frozen=True)
class Point:
    """One size of one series.

    Attributes:
        size: The size that is varied.
        function: Measures it; called with the settings and the size.
        needs_mb: Expected memory, MB; 0 where it does not matter.
        kafka: Whether it needs a broker.
    """

    size: int
    function: Callable[[Settings, int], Outcome]
    needs_mb: float = 0.0
    kafka: bool = False

    def measure(self, settings: Settings) -> Outcome:
        """Measures it in this process."""
        return self.function(settings, self.size)


def window(settings: Settings, size: int) -> Outcome:
    """Messages → window, features included, by window size."""
    from src.channel.window import Provenance, make_window
    from src.features.feature_builder import FeatureBuilder
    from src.rows.parsing import parse_messages

    builder = FeatureBuilder(dictionary_files(settings.work_dir).load())
    values = lines(settings.work_dir, WINDOW_ROWS)
    zeros = np.zeros(size, dtype=np.int64)
    provenance = Provenance(zeros.astype(np.int32), zeros, zeros, zeros)

    def make(start: int) -> None:
        rows = parse_messages(values[start : start + size])
        ids, weights = builder.build(rows)
        make_window(ids, weights, rows.label, provenance, 1, 0, 0, builder.oov(ids))

    make(0)
    began, rows = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_SECONDS:
        make(rows % (WINDOW_ROWS - size + 1))
        rows += size
    return rows / (time.perf_counter() - began), "rows/s", {}


def batch(settings: Settings, size: int) -> Outcome:
    """The default model's step, by batch size."""
    return _step(batch_size=size)


def vocabulary(settings: Settings, size: int) -> Outcome:
    """The default model's step, by vocabulary size."""
    return _step(vocab_size=size)


def vocabulary_sparse(settings: Settings, size: int) -> Outcome:
    """The sparse step, by vocabulary size."""
    return _step(vocab_size=size, sparse=True)


def _step(**changes: object) -> Outcome:
    import mindspore as ms

    from benchmarks.documented.step import DOCUMENTED_CONFIG, own_step, random_batch
    from src.model.workers import bind_workers

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    config = dataclasses.replace(DOCUMENTED_CONFIG, **changes)  # type: ignore[arg-type]
    step = own_step(config, seed=1)
    random = np.random.default_rng(1)
    batches = [random_batch(config, random) for _ in range(BATCH_STEPS)]
    times = []
    for batch_of_step in (batches[0], *batches):  # the first one compiles
        began = time.perf_counter()
        outputs = step(*batch_of_step)
        outputs[0].asnumpy(), outputs[1].asnumpy()
        times.append(time.perf_counter() - began)
        bind_workers()  # as the trainer does
    seconds = float(np.median(times[1:]))
    return config.batch_size / seconds, "rows/s", {"ms_a_step": 1e3 * seconds}


def partitions(settings: Settings, size: int) -> Outcome:
    """Topic → windows of 1000 rows, by number of partitions; the channel is left out."""
    from benchmarks.stages.consume import unkept
    from benchmarks.stages.produce import new_topic
    from src.consumer.counts import ConsumerCounts
    from src.consumer.window_assembler import WindowAssembler
    from src.features.feature_builder import FeatureBuilder
    from src.stream.position import Commit
    from src.stream.produce import ProduceOptions, send_file
    from src.stream.row_source import RowSource

    topic = new_topic(settings.bootstrap_servers, size)
    for partition, path in enumerate(row_files(settings.work_dir, PARTITION_ROWS, size)):
        options = ProduceOptions(settings.bootstrap_servers, topic)
        send_file(path, partition, options, lambda: False)
    builder = FeatureBuilder(dictionary_files(settings.work_dir).load())
    with RowSource(settings.bootstrap_servers, topic, f"scale_{topic}") as source:
        assembler = WindowAssembler(source, builder, 1, "tsv", topic, unkept(ConsumerCounts()))
        assembler.begin(Commit(source.resolve_start("earliest"), session=0))
        began, rows = time.perf_counter(), 0
        while rows < PARTITION_ROWS:
            source.poll(0.1 if source.waiting() < settings.windows[0] else 0.0)
            taken = assembler.take(settings.windows[0])
            rows += 0 if taken is None else len(taken)
    return PARTITION_ROWS / (time.perf_counter() - began), "rows/s", {}


def dictionary(settings: Settings, size: int) -> Outcome:
    """Look-ups of one categorical column, by number of its values in the dictionary.

    Rows and distinct values of a column do not depend on the dictionary. Each column has other
    values, so that no look-up finds those of the one before in a cache.
    """
    from src.dictionaries.dictionaries import load_dictionaries

    folder = settings.work_dir / f"dictionary_{size}"
    _in_child(_save_dictionary, folder, size)
    began = time.perf_counter()
    max_dict, min_dict, map_dict = (folder / name for name in DICTIONARY_FILES)
    dictionaries = load_dictionaries(max_dict, min_dict, map_dict)
    load_seconds = time.perf_counter() - began
    shutil.rmtree(folder)
    random = np.random.default_rng(1)
    times = []
    for _ in range(LOOK_UPS):
        distinct = random.choice(size, LOOK_UP_DISTINCT, replace=False)
        rows = distinct[random.integers(0, LOOK_UP_DISTINCT, LOOK_UP_ROWS)]
        column = pd.Categorical([_value(number) for number in rows])
        codes, values = column.codes.astype(np.int32), pa.array(column.categories)
        began = time.perf_counter()
        (ids,) = dictionaries.table.look_up([values], dictionaries.oov_ids)
        ids[codes]
        times.append(time.perf_counter() - began)
    return LOOK_UP_ROWS / float(np.median(times)), "look-ups/s", {"load_s": load_seconds}


def _value(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}"  # distinct, and in no order


def _save_dictionary(folder: Path, size: int) -> None:
    from src.rows.criteo import CATEGORICAL_COLUMNS, DENSE_COLUMNS

    folder.mkdir(parents=True, exist_ok=True)
    fixed = [*DENSE_COLUMNS, *(f"OOV{column}" for column in CATEGORICAL_COLUMNS)]
    ids = {token: number for number, token in enumerate(fixed)}
    ids.update((f"C1_{_value(number)}", len(fixed) + number) for number in range(size))
    contents = (dict.fromkeys(DENSE_COLUMNS, 1), dict.fromkeys(DENSE_COLUMNS, 0), ids)
    for name, content in zip(DICTIONARY_FILES, contents):
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))


def process_data(settings: Settings, size: int) -> Outcome:
    """``examples/process_data.py``, by number of rows."""
    from examples.dictionaries.processing import process

    path = settings.work_dir / f"scale_{size}.tsv"
    _in_child(_write_sample, path, size)
    try:
        began = time.perf_counter()
        process([path], settings.work_dir / "scale_dictionaries", keep_most_frequent=True)
        return size / (time.perf_counter() - began), "rows/s", {}
    finally:
        path.unlink()


def _write_sample(path: Path, rows: int) -> None:
    write_sample([path], rows, start_row=HISTORY_ROWS)


def _in_child(function: Callable[[Path, int], None], path: Path, size: int) -> None:
    """Makes an input in a process of its own, so that its memory does not count."""
    path.parent.mkdir(parents=True, exist_ok=True)
    child = multiprocessing.get_context("spawn").Process(target=function, args=(path, size))
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError(f"{path} could not be made (exit code {child.exitcode})")


def _model_mb(vocab_size: int) -> float:
    """A table and its two moments, 80 floats per row each, and one more table at the start."""
    return 4 * 4 * 81 * vocab_size / 2**20 + 1_000


VOCABULARIES = (200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000)
SERIES = {
    "window": [Point(size, window) for size in (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)],
    "batch": [
        Point(size, batch, _model_mb(200_000) + 0.2 * size)
        for size in (100, 300, 1_000, 3_000, 10_000)
    ],
    "vocabulary": [Point(size, vocabulary, _model_mb(size)) for size in VOCABULARIES],
    "vocabulary_sparse": [Point(size, vocabulary_sparse, _model_mb(size)) for size in VOCABULARIES],
    "partitions": [Point(size, partitions, kafka=True) for size in (1, 2, 4, 8, 16, 32)],
    "dictionary": [
        Point(size, dictionary, 500 + size * 600 / 2**20)
        for size in (10_000, 100_000, 1_000_000, 10_000_000)
    ],
    "process_data": [Point(size, process_data, 500) for size in (100_000, 1_000_000, 10_000_000)],
}
