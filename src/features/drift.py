"""Detects when the stream no longer resembles the rows that the dictionaries were built from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from src.dictionaries.dictionaries import Dictionaries
from src.process.arrays import Array
from src.process.files import PathLike, atomic_write_bytes
from src.rows.criteo import CATEGORICAL_COLUMNS, CATEGORICAL_SIZE, DENSE_COLUMNS, LABEL

PROFILE_NAME = "data_profile.json"
ROWS_TO_JUDGE = 10_000
LABEL_BAND = 0.05
OOV_BAND = 0.15
DENSE_BAND = 0.01
STANDARD_ERRORS = 4.0


class ProfileError(ValueError):
    """A profile can't be read; the message says why on one line."""


@dataclass(frozen=True)
class Profile:
    """Statistics of the rows that dictionaries were built from.

    Attributes:
        rows: The number of rows.
        label_rate: Share of clicks.
        oov_rates: Share of rows out of vocabulary, by ``C1..C26``, missing values included.
    """

    rows: int
    label_rate: float
    oov_rates: tuple[float, ...]

    def save(self, path: PathLike) -> None:
        """Writes it as JSON; raises ``OSError``."""
        atomic_write_bytes(path, json.dumps(asdict(self), indent=2).encode())

    @staticmethod
    def load(path: PathLike) -> Profile:
        """Reads what ``save`` wrote.

        Raises:
            ProfileError: The file can't be read, or is not a profile.
        """
        try:
            fields = json.loads(Path(path).read_bytes())
            rates = tuple(float(rate) for rate in fields["oov_rates"])
            profile = Profile(int(fields["rows"]), float(fields["label_rate"]), rates)
        except OSError as error:
            raise ProfileError(f"{path}: {error.strerror}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ProfileError(f"{path}: not a profile of process_data.py: {error}") from None
        shares = (profile.label_rate, *rates)
        if len(rates) != CATEGORICAL_SIZE or not all(0 <= share <= 1 for share in shares):
            raise ProfileError(f"{path}: expected {CATEGORICAL_SIZE} rates between 0 and 1")
        return profile


@dataclass(frozen=True)
class Deviation:
    """A column whose share has left the expected range, or is back in it.

    Attributes:
        column: Its name.
        what: What is counted.
        share: Its share of the last rows.
        expected: The expected share.
        within: Whether the share is back in range.
    """

    column: str
    what: str
    share: float
    expected: float
    within: bool

    def __str__(self) -> str:
        back = "back to " if self.within else ""
        return f"{self.column} {self.what} {back}{self.share:.1%} (expected {self.expected:.1%})"


class DriftGuard:
    """Compares every 10,000 rows with a profile.

    A share p of n rows is in range if |p - p0| <= band + 4 · sqrt(p0 · (1 - p0) / n). The band
    allows for changes from one day to the next, the rest for chance.

    ============= ============================================ =================== =====
    column        share of rows ...                            p0                  band
    ============= ============================================ =================== =====
    label         that are clicks                              the profile's       0.05
    C1 … C26      out of vocabulary, by the dictionaries alone the profile's       0.15
    I1 … I13      below the dictionary's minimum or above its  0                   0.01
                  maximum
    ============= ============================================ =================== =====

    Args:
        profile: Statistics of the rows that the dictionaries were built from.
        dictionaries: Minima and maxima.
        rows_to_judge: n.
    """

    def __init__(
        self, profile: Profile, dictionaries: Dictionaries, rows_to_judge: int = ROWS_TO_JUDGE
    ) -> None:
        low, high = dictionaries.min_by_column, dictionaries.max_by_column
        self._low = np.array([low[column] for column in DENSE_COLUMNS])
        self._high = np.array([high[column] for column in DENSE_COLUMNS])
        self._columns = [LABEL, *CATEGORICAL_COLUMNS, *DENSE_COLUMNS]
        self._what = ["clicks", *["out of vocabulary"] * 26, *["out of range"] * 13]
        self._expected = np.array([profile.label_rate, *profile.oov_rates, *[0.0] * 13])
        self._band = np.array([LABEL_BAND, *[OOV_BAND] * 26, *[DENSE_BAND] * 13])
        self._rows_to_judge = rows_to_judge
        self._outside = np.zeros(len(self._columns), dtype=bool)
        self._rows = 0
        self._counts = np.zeros(len(self._columns), dtype=np.int64)

    def observe(self, labels: Array, dense: Array, oov_counts: Array) -> list[Deviation]:
        """Counts the next rows.

        Args:
            labels: float32[rows], 0 or 1.
            dense: float64[rows, 13], NaN where missing.
            oov_counts: int64[26], rows out of vocabulary by the dictionaries.

        Returns:
            The columns that left their range or are back in it, each time n rows have come.
        """
        out_of_range = ((dense < self._low) | (dense > self._high)).sum(axis=0)
        self._counts += np.concatenate(([int(labels.sum())], oov_counts, out_of_range))
        self._rows += len(labels)
        return self._judge() if self._rows >= self._rows_to_judge else []

    def _judge(self) -> list[Deviation]:
        share, expected = self._counts / self._rows, self._expected
        noise = STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / self._rows)
        outside = np.abs(share - expected) > self._band + noise
        changed = np.flatnonzero(outside != self._outside).tolist()
        self._outside, self._rows = outside, 0
        self._counts = np.zeros_like(self._counts)
        return [
            Deviation(
                self._columns[place],
                self._what[place],
                float(share[place]),
                float(expected[place]),
                within=not outside[place],
            )
            for place in changed
        ]


def profile_of(rows: int, clicks: int, known_cells: Iterable[int]) -> Profile:
    """The profile of counted rows.

    Args:
        rows: The number of rows, above 0.
        clicks: The clicks among them.
        known_cells: By ``C1..C26`` the rows whose value has an id.
    """
    return Profile(rows, clicks / rows, tuple(1 - known / rows for known in known_cells))
