"""What a consumer has done so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ConsumerCounts:
    """The windows and rows sent, and the bad rows kept."""

    windows: int = 0
    rows: int = 0
    bad_rows: int = 0

    def __str__(self) -> str:
        return f"consumed {self.windows} windows, {self.rows} rows, {self.bad_rows} bad rows"
