from __future__ import annotations

import numpy as np

from src.dictionaries.growing.sighting_sketch import SightingSketch
from src.dictionaries.value_keys import value_keys


def test_the_sketch_never_undercounts_and_seldom_overcounts() -> None:
    draw = np.random.default_rng(4)
    sketch, exact = SightingSketch(4000), np.zeros(4000, dtype=np.int64)
    keys = value_keys(np.zeros(4000, dtype=np.int64), np.arange(4000).astype("S8"))
    for _ in range(10):
        chosen, times = np.unique(draw.integers(0, 4000, 300), return_counts=True)
        sketch.add(keys[chosen], times)
        exact[chosen] += times
    counted = sketch.count(keys)
    assert (counted >= exact).all()
    assert (counted > exact).mean() < 0.05


def test_sightings_are_forgotten_after_two_generations() -> None:
    key, once = np.array([7], dtype=np.uint64), np.array([1])
    sketch = SightingSketch(10)
    sketch.add(key, once)
    counts = []
    for _ in range(3):
        counts.append(int(sketch.count(key)[0]))
        sketch.advance(10)
    assert counts == [1, 1, 0]


def test_a_count_stops_where_its_byte_is_full() -> None:
    key = np.array([7], dtype=np.uint64)
    sketch = SightingSketch(10)
    for _ in range(3):
        sketch.add(key, np.array([100]))
    assert sketch.count(key).tolist() == [255]
