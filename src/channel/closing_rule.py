"""When a window closes, and with how many rows."""

from __future__ import annotations

DEFAULT_MAX_WINDOW_SIZE = 10_000


class ClosingRule:
    """Closes a window after a fixed amount or a fixed time, whichever comes first.

    Time counts from the window's first row. A window closed by time is cut to a multiple of the
    shards, and the rest opens the next one. If the rows of several windows already wait, one large
    window takes them all: the cost of a window hardly depends on its rows.

    Args:
        window_size: Rows per shard after which a window closes.
        num_shards: Ranks that share the stream.
        window_seconds: Seconds after its first row at which a window closes.
        max_window_size: The most rows per shard of a window that takes the rows of several. Below
            twice ``window_size``, a window takes no more than ``window_size``.
    """

    def __init__(
        self, window_size: int, num_shards: int, window_seconds: float, max_window_size: int = 0
    ) -> None:
        self.full_rows = window_size * num_shards
        self._most_windows = max(max_window_size // window_size, 1)
        self._num_shards = num_shards
        self._window_seconds = window_seconds
        self._opened_at: float | None = None

    def rows_to_close(self, waiting: int, now: float) -> int:
        """How many of the waiting rows go into the window that closes now; 0 if none closes.

        Args:
            waiting: Rows collected so far.
            now: Seconds of a monotonic clock.
        """
        if waiting == 0:
            self._opened_at = None
            return 0
        if self._opened_at is None:
            self._opened_at = now
        if waiting >= self.full_rows:
            rows = min(waiting // self.full_rows, self._most_windows) * self.full_rows
        elif now - self._opened_at >= self._window_seconds:
            rows = waiting - waiting % self._num_shards
        else:
            rows = 0
        if rows:
            self._opened_at = now if waiting > rows else None
        return rows
