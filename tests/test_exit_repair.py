"""Modules of the named package, and no others, gain a reference that is never given back."""

from __future__ import annotations

import sys
import types

import pytest

from src.exit_repair import keep_modules_until_exit


@pytest.mark.parametrize(("name", "gained"), [("pack", 1), ("pack.inner", 1), ("package", 0)])
def test_only_modules_of_the_package_gain_a_reference(
    monkeypatch: pytest.MonkeyPatch, name: str, gained: int
) -> None:
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    before = sys.getrefcount(module)
    keep_modules_until_exit("pack")
    assert sys.getrefcount(module) - before == gained
