"""Parts of a step as operators of this project's own, for the CPU.

MindSpore's operators start one kernel after another and handle single numbers slowly. What a step
does with the rows of a batch takes some forty of them; here it takes one. The sums have another
order than those of MindSpore's operators, so the last digits differ. ``tools/setup.sh`` compiles
``native/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import ops
from mindspore.ops import CustomRegOp, DataType

NATIVE_LIBRARY = Path(__file__).resolve().parents[2] / "build" / "native" / "libstep.so"
REAL, WHOLE = DataType.F32_Default, DataType.I32_Default
_TYPES = {REAL: ms.float32, WHOLE: ms.int32}

Shape = Callable[..., Any]
"""Takes the shapes of all inputs and returns that of the output."""


def is_native() -> bool:
    """Whether the operators can be used: on the CPU, where they are compiled."""
    return ms.get_context("device_target") == "CPU" and NATIVE_LIBRARY.exists()


def native_operator(
    name: str,
    inputs: Mapping[str, tuple[str, str]],
    output: tuple[str, str],
    shape: Shape,
    gradient: Callable[..., Any] | None = None,
) -> ops.Custom:
    """An operator of the compiled library.

    It may change its inputs in place, so whoever uses it takes care of the order.

    Args:
        name: The function's name.
        inputs: Name → ``REAL`` or ``WHOLE``, in the function's order.
        output: ``REAL`` or ``WHOLE``.
        shape: The output's shape.
        gradient: Takes inputs, output and the output's gradient; returns those of the inputs.
    """
    described = CustomRegOp(name).target("CPU")
    for number, each in enumerate(inputs):
        described = described.input(number, each)
    described = described.output(0, "output").dtype_format(*inputs.values(), output)
    return ops.Custom(
        f"{NATIVE_LIBRARY}:{name}",
        out_shape=shape,
        out_dtype=_TYPES[output],
        func_type="aot",
        bprop=gradient,
        reg_info=described.get_op_info(),
    )
