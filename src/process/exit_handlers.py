"""Two repairs: MindSpore 2.0.0 can crash a process that has ended well."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from typing import NoReturn


def keep_modules_until_exit(package: str = "mindspore") -> None:
    """Lets no module of the package be freed; call it last, when all that is used is imported.

    MindSpore's native part holds references to some of its Python modules in static objects, which
    are destroyed after the interpreter. Where such a reference is the last one, freeing the module
    then is a segmentation fault, and an exit code 139 in place of 0. One more reference to each
    module, never given back, prevents it.
    """
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(package + "."):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))


def leave_without_farewell(code: int) -> NoReturn:
    """Ends a rank's process at once, without MindSpore's exit handlers; for the CPU only.

    There MindSpore 2.0.0 takes its connections down in one thread while another still handles that
    a neighbour has closed its own: where two ranks leave at the same moment, which is what ranks
    do, one of them may end with a segmentation fault. The launcher ends the scheduler, nobody else
    waits for the farewell. All that is to last must be closed before.

    Args:
        code: The exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
