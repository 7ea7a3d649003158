"""``features``: raw messages of a window → ids, weights and labels."""

from __future__ import annotations

import numpy as np
import pyarrow
import pyarrow.csv

from benchmarks.documented.features import RowFunctions, stacked, window_features
from benchmarks.inputs import dictionary_files, json_messages, lines
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.timing import alternate, medians, rate_of
from src.dictionaries.dictionaries import Dictionaries
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.process.memory import keep_freed_memory
from src.rows.arrow_csv import convert_options, parse_options, read_options
from src.rows.parsing import parse_messages

OWN_ROWS = 100_000  # rows per round of our side: a few windows are too short to time
ONE_PART = (1, 1)


def features(values: list[bytes], builder: FeatureBuilder) -> tuple[Array, Array, Array]:
    """This project's features of a window: ids [rows, 39], weights [rows, 39], labels [rows]."""
    rows = parse_messages(values)
    ids, weights = builder.build(rows)
    return ids, weights, rows.label


def check_equal(values: list[bytes], dictionaries: Dictionaries) -> None:
    """Fails unless both ways make the same features of a window."""
    ours = features(values, FeatureBuilder(dictionaries))
    functions = RowFunctions(dictionaries)
    frame = window_features(json_messages(values), functions)
    theirs = stacked(frame.to_numpy())
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
    np.testing.assert_array_equal(ours[2], theirs[2])


def read_columns(data: bytes) -> pyarrow.Table:
    """The limit: pyarrow's CSV reader alone turns a window's bytes into columns."""
    options = read_options(len(data) + 1)
    return pyarrow.csv.read_csv(
        pyarrow.py_buffer(data), options, parse_options(), convert_options()
    )


def run(settings: Settings) -> list[Result]:
    """Measures each window size, rows/s."""
    keep_freed_memory()  # as the consumer does
    dictionaries = dictionary_files(settings.work_dir).load()
    results = []
    for size in settings.windows:
        windows = max(1, OWN_ROWS // size)
        values = lines(settings.work_dir, max(OWN_ROWS, size))
        own = [values[start : start + size] for start in range(0, windows * size, size)]
        results.append(_measure(size, own, dictionaries, settings.repeats))
    return results


def _measure(
    size: int, windows: list[list[bytes]], dictionaries: Dictionaries, repeats: int
) -> Result:
    check_equal(windows[0], dictionaries)
    builder, functions = FeatureBuilder(dictionaries), RowFunctions(dictionaries)
    messages = json_messages(windows[0])
    joined = [b"\n".join((*window, b"")) for window in windows]
    ways = {
        "documented": lambda: rate_of(lambda: window_features(messages, functions), len(messages)),
        "documented_in_one_part": lambda: rate_of(
            lambda: window_features(messages, functions, ONE_PART), len(messages)
        ),
        "ours": lambda: rate_of(
            lambda: [features(window, builder) for window in windows], size * len(windows)
        ),
        "limit": lambda: rate_of(
            lambda: [read_columns(data) for data in joined], size * len(windows)
        ),
    }
    median = medians(alternate(ways, repeats, f"features, window {size}"))
    return Result.of_medians(
        f"features_{size}",
        "rows/s",
        median,
        documented_in_one_part=median["documented_in_one_part"],
    )
