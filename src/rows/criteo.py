"""The Criteo row format: column names, sizes, and what parsing returns.

A row is 40 tab-separated fields without a header: the label (0 or 1), thirteen integers ``I1..I13``
and twenty-six strings ``C1..C26``. An integer or a string may be missing (an empty field). On the
wire a message's value is that line (``tsv``) or a JSON list of its 40 fields (``json``, the wire of
the original example).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from src.process.arrays import Array

LABEL = "label"
DENSE_COLUMNS = tuple(f"I{number}" for number in range(1, 14))
CATEGORICAL_COLUMNS = tuple(f"C{number}" for number in range(1, 27))
COLUMNS = (LABEL, *DENSE_COLUMNS, *CATEGORICAL_COLUMNS)
DENSE_SIZE = len(DENSE_COLUMNS)
CATEGORICAL_SIZE = len(CATEGORICAL_COLUMNS)
FIELD_SIZE = DENSE_SIZE + CATEGORICAL_SIZE
LABELS = (b"0", b"1")
VALUE_FORMATS = ("tsv", "json")
ROW = "row"
"""Named instead of a column where the whole line is at fault."""


@dataclass(frozen=True)
class BadRow:
    """A message that is not a row, and why.

    Attributes:
        index: The message's place in the list that was parsed.
        column: The column at fault, or "row" if the whole line is.
        reason: What is wrong, with the value, on one line.
    """

    index: int
    column: str
    reason: str


@dataclass(frozen=True)
class ParsedRows:
    """The rows found among some messages.

    Attributes:
        index: int64[n], each row's place in the list that was parsed, ascending.
        label: float32[n], 0 or 1.
        numbers: float64[n, 13], the dense columns, NaN where missing.
        codes: int32[n, 26], the categorical columns' places in ``values``, -1 where missing.
        values: The distinct values of each categorical column, pyarrow strings.
        bad: The messages that are not rows, in order.
    """

    index: Array
    label: Array
    numbers: Array
    codes: Array
    values: Sequence[pa.Array]
    bad: Sequence[BadRow]

    @property
    def dense(self) -> pd.DataFrame:
        """DataFrame[n, 13] of float64, NaN where missing."""
        return pd.DataFrame(self.numbers, columns=list(DENSE_COLUMNS), copy=False)

    @property
    def categorical(self) -> pd.DataFrame:
        """DataFrame[n, 26] of pandas categories, for readers of the values themselves."""
        columns = zip(CATEGORICAL_COLUMNS, self.codes.T, self.values)
        return pd.DataFrame(
            {
                name: pd.Categorical.from_codes(codes, values.to_pylist())
                for name, codes, values in columns
            }
        )
