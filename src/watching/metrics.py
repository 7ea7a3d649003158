"""Progressive validation: how good the scores of rows were, taken before training on them.

Every batch is scored by a model that has not seen it, so these numbers need no held-out rows. They
are kept over three scopes: the whole life of the model, the newest rows (a sliding window), and
the rows since this process started.

AUC comes from counts of clicks and non-clicks in fixed bins of the logit. Counts of two processes
can be added up, sorted scores can't. The bins are of equal width on the scale
sign(x) · log(1 + |x| / 0.001), so they are narrow where CTR models put their scores. A new model's
logits are almost equal and near 0; later ones lie around the logit of the click rate.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from src.process.arrays import Array

DEFAULT_WINDOW_ROWS = 100_000
BINS = 1 << 18
MAX_LOGIT = 32.0
"""Logits beyond it count as tied; no click rate comes near the probability e^-32."""

COUNTED_TOGETHER = 2000
"""Most rows that wait to be counted. A step evicts the counts from the CPU's caches; loading them
once for many batches costs little more than for one."""

_FINEST = 1e-3  # the scale is linear in the logit below it and logarithmic above it
_BINS_PER_UNIT = BINS / 2 / math.log1p(MAX_LOGIT / _FINEST)
# Probabilities are kept this far from 0 and from 1, so that their logits are finite.
_LEAST_PROBABILITY = 2.0**-53


@dataclass(frozen=True)
class Scores:
    """How good the scores of some rows were.

    Attributes:
        rows: How many rows.
        clicks: How many of them were clicks.
        auc: Probability that a click scored above a non-click, where a tie counts half; None
            unless there were both.
        log_loss: Mean cross-entropy in nats; None without rows.
        normalised_entropy: log_loss over that of the rows' own click rate; None unless there were
            clicks and non-clicks.
        calibration: Predicted clicks over clicks; None without clicks.
    """

    rows: int
    clicks: int
    auc: float | None
    log_loss: float | None
    normalised_entropy: float | None
    calibration: float | None

    def to_json(self) -> dict[str, float | None]:
        """The scores as a JSON object."""
        return asdict(self)


class Totals:
    """The sums from which scores are computed; totals of several processes add up.

    Attributes:
        counts: int64[2, BINS], rows by label and bin of their logit.
        sums: float64[2], log loss and predicted clicks.
    """

    def __init__(self, counts: Array | None = None, sums: Array | None = None) -> None:
        self.counts = np.zeros((2, BINS), dtype=np.int64) if counts is None else counts
        self.sums = np.zeros(2, dtype=np.float64) if sums is None else sums

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.counts + other.counts, self.sums + other.sums)

    def add(self, batches: _Batches) -> None:
        """Counts some batches."""
        np.add.at(self.counts.reshape(-1), batches.place, 1)
        for sums in batches.sums:  # one by one: the result is the same however batches were grouped
            self.sums += sums

    def scores(self) -> Scores:
        """The scores of the rows counted so far."""
        non_clicks, clicks = (int(number) for number in self.counts.sum(axis=1))
        rows = clicks + non_clicks
        log_loss = float(self.sums[0]) / rows if rows else None
        entropy = _entropy(clicks, rows)
        return Scores(
            rows,
            clicks,
            _auc(self.counts, clicks, non_clicks),
            log_loss,
            log_loss / entropy if log_loss is not None and entropy else None,
            float(self.sums[1]) / clicks if clicks else None,
        )


@dataclass(frozen=True)
class _Batches:
    """Some batches, ready to be counted.

    Attributes:
        place: int64[rows], places in the flattened ``Totals.counts``.
        by_row: float64[2, rows], log loss and predicted clicks of each row.
        sums: float64[batches, 2], the same of each batch.
    """

    place: Array
    by_row: Array
    sums: Array

    @staticmethod
    def of(logit: Array, is_click: Array, first_rows: Sequence[int] = (0,)) -> _Batches:
        """Counts rows, from float32[rows], bool[rows] and the first row of each batch."""
        x = logit.astype(np.float64)
        size = np.abs(x)
        odds = np.exp(-size)  # of the less likely outcome: never overflows
        loss = np.log1p(odds) + size * ((x > 0) != is_click)
        probability = np.where(x > 0, 1.0, odds) / (1.0 + odds)
        by_row = np.stack((loss, probability))
        return _Batches(bin_of(x) + BINS * is_click, by_row, _sums_of(by_row, first_rows).T)


def _sums_of(by_row: Array, first_rows: Sequence[int] = (0,)) -> Array:
    """The sums of each batch, float64[2, batches], from float64[2, rows] and the first rows."""
    return np.add.reduceat(by_row, first_rows, axis=1) if by_row.size else np.zeros((2, 0))


class _NewestRows:
    """The newest rows, each with all that the scores need of it.

    Args:
        size: How many rows are kept.
    """

    def __init__(self, size: int) -> None:
        self._logit = np.zeros(size, dtype=np.float32)  # rings, all of them
        self._is_click = np.zeros(size, dtype=bool)
        self._place = np.zeros(size, dtype=np.int32)
        self._by_row = np.zeros((2, size), dtype=np.float64)
        self._held = 0
        self._next = 0

    def keep(self, logit: Array, is_click: Array, batches: _Batches) -> None:
        """Replaces the oldest rows by these, in float32[rows] and bool[rows]."""
        size = len(self._logit)
        kept = slice(-size, None)
        logit = logit[kept]
        ring = (self._next + np.arange(len(logit))) % size
        self._logit[ring], self._is_click[ring] = logit, is_click[kept]
        self._place[ring], self._by_row[:, ring] = batches.place[kept], batches.by_row[:, kept]
        self._next = (self._next + len(logit)) % size
        self._held = min(self._held + len(logit), size)

    def rows(self) -> tuple[Array, Array]:
        """(logit float32[held], is_click bool[held]), oldest first; copies."""
        return self._oldest_first(self._logit), self._oldest_first(self._is_click)

    def totals(self) -> Totals:
        """Their totals; summed up oldest first, so that they are the same after a restart."""
        counts = np.bincount(self._oldest_first(self._place), minlength=2 * BINS)
        sums = _sums_of(self._oldest_first(self._by_row)).sum(axis=1)
        return Totals(counts.reshape(2, BINS), sums)

    def _oldest_first(self, ring: Array) -> Array:
        first, end = self._next - self._held, self._next
        parts = [slice(first, end)] if first >= 0 else [slice(first, None), slice(end)]
        return np.concatenate([ring[..., part] for part in parts], axis=-1)


class ProgressiveMetrics:
    """Scores of the rows seen so far, over the whole life, the newest rows and since the start.

    The newest rows are kept one by one, 25 bytes each, and leave the window one by one. The
    window's totals are summed up anew each time, so no rounding error adds up over a long stream.

    Args:
        window_rows: How many rows the sliding window holds.
    """

    def __init__(self, window_rows: int = DEFAULT_WINDOW_ROWS) -> None:
        if window_rows < 1:
            raise ValueError(f"window_rows is {window_rows}, but must be at least 1")
        self._life = Totals()
        self._since_start = Totals()
        self._newest = _NewestRows(window_rows)
        self._waiting: list[tuple[Array, Array]] = []
        self._rows_waiting = 0
        self._counting = threading.Lock()  # two threads may ask for scores between two steps

    def add(self, logit: Array, label: Array) -> None:
        """Counts a batch.

        Args:
            logit: float32[batch] or [batch, 1], from before training on the rows; for
                probabilities see ``logit_of``.
            label: Of the same size, 1 for a click and 0 for none.

        Raises:
            ValueError: The sizes differ, a logit is not finite or a label is neither 0 nor 1;
                nothing is counted.
        """
        scored, is_click = _checked(logit, label)
        if not scored.size:
            return
        self._waiting.append((scored.copy(), is_click))  # the caller may use its array again
        self._rows_waiting += scored.size
        if self._rows_waiting >= COUNTED_TOGETHER:
            self._count_waiting()

    def life(self) -> Totals:
        """Totals of all rows since the model's first step."""
        self._count_waiting()
        return self._life

    def since_start(self) -> Totals:
        """Totals of the rows that this object has counted itself."""
        self._count_waiting()
        return self._since_start

    def window(self) -> Totals:
        """Totals of the newest rows."""
        self._count_waiting()
        return self._newest.totals()

    def newest(self) -> tuple[Array, Array]:
        """(logit float32[held], is_click bool[held]) of the newest rows, oldest first; copies."""
        self._count_waiting()
        return self._newest.rows()

    def state(self) -> dict[str, Array]:
        """What ``from_state`` needs to go on exactly; without the rows since the start.

        Returns:
            ``bins`` int64[1], the number of bins; ``place`` int64[n] and ``count`` int64[n], the
            bins of the whole life that are not empty; ``sums`` float64[2]; ``logit``
            float32[held] and ``label`` bool[held], the newest rows, oldest first.
        """
        return self.copied_state()()

    def copied_state(self) -> Callable[[], dict[str, Array]]:
        """Copies what ``state`` is made of; the result makes it, in whichever thread."""
        self._count_waiting()
        logit, is_click = self._newest.rows()
        counts, sums = self._life.counts.reshape(-1).copy(), self._life.sums.copy()

        def state() -> dict[str, Array]:
            place = np.flatnonzero(counts)
            return {
                "bins": np.array([BINS]),
                "place": place,
                "count": counts[place],
                "sums": sums,
                "logit": logit,
                "label": is_click,
            }

        return state

    @staticmethod
    def from_state(
        state: Mapping[str, Array], window_rows: int = DEFAULT_WINDOW_ROWS
    ) -> ProgressiveMetrics:
        """Goes on from where ``state`` was called; a smaller window keeps the newest rows.

        Raises:
            ValueError: It has another number of bins, or is not a state.
        """
        metrics = ProgressiveMetrics(window_rows)
        try:
            if int(state["bins"][0]) != BINS:
                raise ValueError(f"the state has {int(state['bins'][0])} bins, expected {BINS}")
            metrics._life.counts.reshape(-1)[state["place"]] = state["count"]
            metrics._life.sums[:] = state["sums"]
            logit, is_click = state["logit"], state["label"]
            metrics._newest.keep(logit, is_click, _Batches.of(logit, is_click))
        except (KeyError, IndexError) as error:
            raise ValueError(f"not a state of the metrics: {error}") from None
        return metrics

    def _count_waiting(self) -> None:
        """Counts the batches that wait."""
        with self._counting:
            if not self._waiting:
                return
            logit, is_click = (np.concatenate(parts) for parts in zip(*self._waiting))
            sizes = [len(part) for part, _ in self._waiting]
            self._waiting, self._rows_waiting = [], 0
            batches = _Batches.of(logit, is_click, [0, *itertools.accumulate(sizes[:-1])])
            self._life.add(batches)
            self._since_start.add(batches)
            self._newest.keep(logit, is_click, batches)


def totals_of(logit: Array, is_click: Array) -> Totals:
    """Totals of some rows: float32[rows], finite, and bool[rows]."""
    batch = _Batches.of(logit, is_click)
    counts = np.bincount(batch.place, minlength=2 * BINS).reshape(2, BINS)
    return Totals(counts, batch.sums.sum(axis=0))


def encode_state(state: Mapping[str, Array]) -> str:
    """Arrays as text that JSON can hold: base64 of a ``.npz`` with a checksum."""
    packed = io.BytesIO()
    np.savez(packed, **_smaller(state))
    # Level 0: logits hardly compress at all, and trying took most of a checkpoint's time here.
    return base64.b64encode(zlib.compress(packed.getvalue(), 0)).decode()


def decode_state(text: str) -> dict[str, Array]:
    """Reads what ``encode_state`` wrote, in this version or before.

    Raises:
        ValueError: The text is something else.
    """
    try:
        packed = io.BytesIO(zlib.decompress(base64.b64decode(text, validate=True)))
        with np.load(packed, allow_pickle=False) as file:
            return _as_before({name: file[name] for name in file.files})
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(f"not a state of the metrics: {error}") from None


def _smaller(state: Mapping[str, Array]) -> dict[str, Array]:
    """The state in fewer bytes: places by their distances, labels as bits."""
    packed = dict(state)
    if "place" in packed:
        packed["distance"] = _in_fewest_bytes(np.diff(packed.pop("place"), prepend=0))
    if "count" in packed:
        packed["count"] = _in_fewest_bytes(packed["count"])
    if "label" in packed:
        packed["label_bits"] = np.packbits(packed.pop("label"))
    return packed


def _as_before(packed: dict[str, Array]) -> dict[str, Array]:
    """The state of which ``_smaller`` made this; one that never was smaller stays as it is."""
    if "distance" in packed:
        packed["place"] = np.cumsum(packed.pop("distance"), dtype=np.int64)
    if "label_bits" in packed:
        bits = np.unpackbits(packed.pop("label_bits"), count=len(packed["logit"]))
        packed["label"] = bits.astype(bool)
    return packed


def _in_fewest_bytes(numbers: Array) -> Array:
    return numbers.astype(np.min_scalar_type(numbers.max(initial=0)))


def bin_of(logit: Array) -> Array:
    """The bin of each logit, int64[rows] in 0 .. BINS - 1, growing with it."""
    x = np.asarray(logit, dtype=np.float64)
    scaled = np.copysign(np.log1p(np.abs(x) / _FINEST), x) * _BINS_PER_UNIT
    bins: Array = np.clip(np.floor(scaled), -BINS // 2, BINS // 2 - 1).astype(np.int64) + BINS // 2
    return bins


def middle_of(bins: Array) -> Array:
    """The logit in the middle of each bin, float64[bins]."""
    scaled = (bins + 0.5 - BINS // 2) / _BINS_PER_UNIT
    middle: Array = np.copysign(np.expm1(np.abs(scaled)) * _FINEST, scaled)
    return middle


def logit_of(probability: Array) -> Array:
    """The logit of a probability; 0 and 1 count as the nearest numbers with a finite logit.

    Args:
        probability: float[rows] in [0, 1].

    Returns:
        float64[rows].
    """
    p = np.asarray(probability, dtype=np.float64)
    logit: Array = np.log(np.maximum(p, _LEAST_PROBABILITY)) - np.log(
        np.maximum(1.0 - p, _LEAST_PROBABILITY)
    )
    return logit


def _checked(logit: Array, label: Array) -> tuple[Array, Array]:
    """(float32[batch], bool[batch])."""
    scored = np.asarray(logit, dtype=np.float32).reshape(-1)
    labels = np.asarray(label).reshape(-1)
    if scored.size != labels.size:
        raise ValueError(f"{scored.size} logits for {labels.size} labels")
    if not np.isfinite(scored).all():
        raise ValueError("a logit is not finite")
    is_click = labels == 1
    if not (is_click | (labels == 0)).all():
        raise ValueError("a label is neither 0 nor 1")
    return scored, is_click


def _auc(counts: Array, clicks: int, non_clicks: int) -> float | None:
    """Area under the ROC curve from counts[2, bins] of non-clicks and clicks."""
    if not clicks or not non_clicks:
        return None
    place = np.flatnonzero(counts[1])
    below = np.cumsum(counts[0])[place] - counts[0][place] / 2
    return float(below @ counts[1][place].astype(np.float64)) / non_clicks / clicks


def _entropy(clicks: int, rows: int) -> float | None:
    """Entropy of the click rate in nats; None unless there were clicks and non-clicks."""
    if not 0 < clicks < rows:
        return None
    rate = clicks / rows
    return -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
