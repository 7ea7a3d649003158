"""Cycles are searched for rarely and still found; afterwards the old settings are back."""

from __future__ import annotations

import gc
import weakref

from src.process.garbage import OBJECTS, collected_rarely


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
