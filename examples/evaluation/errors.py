"""What can be wrong with a checkpoint or a file that is to be scored."""

from __future__ import annotations


class EvaluationError(RuntimeError):
    """The file can't be scored with the checkpoint; one line says why."""
