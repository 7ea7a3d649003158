"""The device to train on."""

from __future__ import annotations

import ctypes
import logging

import mindspore as ms

logger = logging.getLogger(__name__)


def choose_device(device_target: str) -> str:
    """The device asked for, or for "auto" a GPU where MindSpore can use one, else the CPU."""
    if device_target != "auto":
        return device_target
    try:
        # MindSpore reports a missing driver as errors of its own: look for it first.
        ctypes.CDLL("libcuda.so.1")
        ms.set_context(device_target="GPU")
        ms.ops.ones((1,), ms.float32).asnumpy()
    except (OSError, RuntimeError, ValueError) as error:
        logger.info("no usable GPU (%s)", str(error).strip().split("\n")[0])
        return "CPU"
    return "GPU"
