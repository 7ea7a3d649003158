"""Cycles are searched for rarely and still found; threads share a heap."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

from src.process.memory import OBJECTS, collected_rarely


class Node:
    """Can be part of a cycle."""

    other: Node | None = None


def cycle() -> weakref.ref[Node]:
    first, second = Node(), Node()
    first.other, second.other = second, first
    return weakref.ref(first)


def test_a_cycle_is_found_though_not_at_once() -> None:
    with collected_rarely():
        found = cycle()
        few: list[list[int]] = [[] for _ in range(OBJECTS // 2)]
        assert found() is not None
        many: list[list[int]] = [[] for _ in range(2 * OBJECTS)]
        assert found() is None
    assert len(few) < len(many)


def test_afterwards_all_is_as_before() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    with collected_rarely():
        assert gc.get_threshold()[0] == OBJECTS
        assert gc.get_freeze_count() > before[1]
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before[0], 0)


HEAPS_OF_FOUR_THREADS = """
import ctypes, sys, threading
from src.process.memory import use_one_heap
if sys.argv[1] == "one":
    use_one_heap()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.fopen.restype = ctypes.c_void_p
barrier = threading.Barrier(4)
def allocate():
    library.malloc(1000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = library.fopen(sys.argv[2].encode(), b"w")
library.malloc_info(0, ctypes.c_void_p(file))
library.fclose(ctypes.c_void_p(file))
"""


def heaps_of_four_threads(which: str, report: Path) -> int:
    command = [sys.executable, "-c", HEAPS_OF_FOUR_THREADS, which, str(report)]
    subprocess.run(command, check=True)
    return report.read_text().count("<heap nr=")


def test_threads_share_one_heap_where_they_had_their_own(tmp_path: Path) -> None:
    assert heaps_of_four_threads("own", tmp_path / "own.xml") > 1
    assert heaps_of_four_threads("one", tmp_path / "one.xml") == 1
