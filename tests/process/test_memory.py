"""Cycles are searched for rarely and still found; threads share a heap."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import psutil
import pytest

from src.process.memory import OBJECTS, available_bytes, collected_rarely


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


FAULTS_OF_FREED_ARRAYS = """
import resource, sys
import numpy as np
from src.process.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def work():
    return [np.ones(8 << 20, np.uint8) for _ in range(5)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again_without_page_faults() -> None:
    def faults(state: str) -> int:
        command = [sys.executable, "-c", FAULTS_OF_FREED_ARRAYS, state]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert faults("kept") < 500 < 20_000 < faults("given back")


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


HOST = 1000 << 20


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


class Kernel:
    """A folder with the kernel's files; 1000 MB are available on the host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("proc/meminfo", f"MemTotal: 9 kB\nMemAvailable: {HOST >> 10} kB\nHugePages: 0\n")

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def in_groups(self, lines: str) -> None:
        self.write("proc/self/cgroup", lines)

    def limit_v2(self, group: str, limit: str, used: int, cached: int = 0) -> None:
        self.write(f"cgroup{group}/memory.max", f"{limit}\n")
        self.write(f"cgroup{group}/memory.current", f"{used}\n")
        self.write(f"cgroup{group}/memory.stat", f"anon 1\ninactive_file {cached}\n")

    def limit_v1(self, group: str, limit: int, used: int, cached: int = 0) -> None:
        self.write(f"cgroup/memory{group}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"cgroup/memory{group}/memory.usage_in_bytes", f"{used}\n")
        self.write(f"cgroup/memory{group}/memory.stat", f"total_inactive_file {cached}\n")

    def available(self) -> int:
        return available_bytes(self.folder / "proc", self.folder / "cgroup")


def test_without_control_groups_the_hosts_memory_counts(kernel: Kernel) -> None:
    assert kernel.available() == HOST
    kernel.in_groups("5:cpu:/\n0::/\n")
    assert kernel.available() == HOST


def test_the_tightest_control_group_counts_and_cached_files_are_no_loss(kernel: Kernel) -> None:
    kernel.in_groups("0::/pod/container\n")
    kernel.limit_v2("/pod/container", "max", 100)
    assert kernel.available() == HOST
    kernel.limit_v2("/pod", "900", 700, cached=50)
    assert kernel.available() == 250
    kernel.limit_v2("", "800", 700)
    assert kernel.available() == 100


def test_a_container_sees_its_own_limit_at_the_root(kernel: Kernel) -> None:
    kernel.in_groups("4:cpuset:/docker/ab\n3:blkio,memory:/docker/ab\n0::/docker/ab\n")
    kernel.limit_v1("", 900, 700, cached=50)
    assert kernel.available() == 250
    kernel.limit_v1("", 0x7FFFFFFFFFFFF000, 700)
    assert kernel.available() == HOST


def test_this_hosts_memory() -> None:
    assert 0 < available_bytes() <= psutil.virtual_memory().total
