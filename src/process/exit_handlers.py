"""Two repairs: MindSpore 2.0.0 can crash a process at its very end, after all work is done."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from typing import NoReturn


def keep_modules_until_exit(package: str = "mindspore") -> None:
    """Keeps the package's modules from being freed; call it last, when all imports are done.

    MindSpore's native part holds references to some of its Python modules in static objects. They
    are destroyed after the interpreter. If such a reference is the last one, freeing the module
    is a segmentation fault: the exit code is 139, not 0. One more reference to each module, never
    released, prevents it.
    """
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(package + "."):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))


def exit_without_handlers(code: int) -> NoReturn:
    """Ends a rank's process at once, without MindSpore's exit handlers; for the CPU only.

    On the CPU MindSpore 2.0.0 closes its connections in one thread, while another still handles
    that a peer has closed its own. Ranks usually end at the same moment; one of them may then end
    with a segmentation fault. Skipping the handlers is safe: the launcher ends the scheduler, and
    no other process waits for them. Close all files before the call.

    Args:
        code: The exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
