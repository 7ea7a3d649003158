"""The very end of a process, after all work is done: libraries can crash or hang it there."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import sys
import threading
from typing import NoReturn

logger = logging.getLogger(__name__)

EXIT_SECONDS = 30.0


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


def exit_in_time(code: int, seconds: float = EXIT_SECONDS) -> NoReturn:
    """Ends the process like ``sys.exit``, by force if that takes too long.

    Exit handlers and threads of libraries may wait for ever for a service that is gone. The program
    has closed and saved all that is its own before it calls this.

    Args:
        code: The exit code.
        seconds: How long the libraries have to end.
    """
    watch = threading.Timer(seconds, _exit_by_force, (code, seconds))
    watch.daemon = True
    watch.start()
    sys.exit(code)


def _exit_by_force(code: int, seconds: float) -> None:
    """Says which threads have not ended, and ends the process."""
    logger.warning("a library did not let the process end for %g s: ended by force", seconds)
    faulthandler.dump_traceback()
    exit_without_handlers(code)
