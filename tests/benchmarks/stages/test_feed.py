from __future__ import annotations

import numpy as np

from benchmarks.stages.feed import taken_together


def test_windows_are_taken_together_as_long_as_the_consumer_would() -> None:
    rows = np.arange(13_500)
    together = taken_together([rows[:4_500], rows[4_500:9_000], rows[9_000:]])
    assert [part.tolist() for part in together] == [rows[:9_000].tolist(), rows[9_000:].tolist()]
    large = [rows[:13_000], rows[13_000:]]
    assert [len(part) for part in taken_together(large)] == [13_000, 500]
