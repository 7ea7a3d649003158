"""One repair: MindSpore 2.0.0 can crash a process that has ended well."""

from __future__ import annotations

import ctypes
import sys


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
