"""The array type of annotations; the docstrings say what is in it."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
