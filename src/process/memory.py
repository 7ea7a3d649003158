"""Memory of a process that runs for months: garbage, the heap, and how much is left."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

OBJECTS = 30_000
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 64 << 20
_LARGE_BYTES = 32 << 20  # glibc takes no more


@contextlib.contextmanager
def collected_rarely() -> Iterator[None]:
    """Searches for cycles after 30,000 new objects, not 700, and only among new objects.

    A row read from Kafka is a few objects, none of them in a cycle, and a consumer holds many rows
    at a time. Searching them again and again takes a tenth of its time. It can't be left out: a
    fetch of kafka-python that times out leaves a cycle of some fifty objects.
    """
    first, second, third = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS, second, third)
    try:
        yield
    finally:
        gc.set_threshold(first, second, third)
        gc.unfreeze()


def use_one_heap() -> None:
    """Lets all threads started from here on share the main thread's heap.

    glibc gives threads heaps of their own. What one thread frees there, the others can't use. The
    freed pieces of a consumer grew to twice the memory in use, and did not stop growing.
    """
    _set_malloc(_M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Has the C library keep up to 64 MB of freed memory for what is allocated next.

    glibc gives the end of its heap back to the kernel, and takes it anew for the next window or
    batch. Each page then costs a fault: a twelfth of the time of an adaptive step. An array of 32
    MB and more still has memory of its own, which goes back at once.
    """
    _set_malloc(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    _set_malloc(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _set_malloc(option: int, value: int) -> None:
    """Sets an option of glibc's; where the C library is another one, nothing is done."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(option, value)


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """How much memory this process may still take: the host's, or less in a container.

    Args:
        proc: The kernel's files on memory and processes.
        cgroups: Where control groups are mounted, of version 1 or 2.
    """
    host = 1024 * int(_numbers(proc / "meminfo")["MemAvailable:"])
    return min([host, *_left_in_cgroups(proc / "self" / "cgroup", cgroups)])


def _left_in_cgroups(own: Path, cgroups: Path) -> Iterator[int]:
    """The bytes left in each control group with a limit, up to the outermost that can be seen."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = cgroups
        limit, usage, cached = "memory.max", "memory.current", "inactive_file"
        if controllers:
            if "memory" not in controllers.split(","):
                continue
            root = cgroups / "memory"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        # Within a container the path may be that on the host. Then only the root is there.
        folder = root / path.strip("/")
        for group in (folder, *folder.parents):
            with contextlib.suppress(OSError, ValueError, KeyError):  # "max" is no limit
                left = int((group / limit).read_text()) - int((group / usage).read_text())
                yield left + int(_numbers(group / "memory.stat")[cached])
            if group == root:
                break


def _numbers(path: Path) -> dict[str, str]:
    """Name → number of a file of the kernel's, with one on each line."""
    words = (line.split() for line in path.read_text().splitlines())
    return {name: number for name, number, *_ in words}
