"""Slots by 64-bit key, for whole arrays of keys at once."""

from __future__ import annotations

import numpy as np

from src.process.arrays import Array

NO_SLOT = -1
_REMOVED = -2
_LEAST_PLACES = 1 << 10
_ROOM = 4
"""Places for each key when the table is made anew. That happens when half of them are taken."""


class KeyTable:
    """A dict of ints that takes a batch of keys at a time.

    It uses open addressing with linear probing (Knuth, The Art of Computer Programming, vol. 3,
    section 6.4). The keys must be mixed already, as their lower bits are the hash. A removed key
    leaves a mark, so that a search for another key goes on behind it.
    """

    def __init__(self) -> None:
        self._taken = 0  # removed keys included
        self._make_places(_LEAST_PLACES)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._slots >= 0))

    def look_up(self, keys: Array) -> Array:
        """The slots of keys, int64[n]; -1 where a key has none.

        Args:
            keys: uint64[n].
        """
        found = np.full(len(keys), NO_SLOT, dtype=np.int64)
        place = self._first_places(keys)
        left = np.arange(len(keys))
        while left.size:
            slots = self._slots[place]
            is_found = (self._keys[place] == keys) & (slots >= 0)
            found[left[is_found]] = slots[is_found]
            is_left = np.flatnonzero(~is_found & (slots != NO_SLOT))
            place, keys, left = self._next(place[is_left]), keys[is_left], left[is_left]
        return found

    def add(self, keys: Array, slots: Array) -> None:
        """Gives keys that have no slot one.

        Args:
            keys: uint64[n], all different.
            slots: int64[n], all different, not negative.
        """
        if 2 * (self._taken + len(keys)) > len(self._slots):
            self._make_anew(len(keys))
        place = self._first_places(keys)
        while keys.size:
            here = self._slots[place]
            is_free = here < 0
            self._slots[place[is_free]] = slots[is_free]
            # Of several keys that meet at a place, one got it.
            is_put = is_free & (self._slots[place] == slots)
            self._keys[place[is_put]] = keys[is_put]
            self._taken += int(np.count_nonzero(here[is_put] == NO_SLOT))
            is_left = np.flatnonzero(~is_put)
            place, keys, slots = self._next(place[is_left]), keys[is_left], slots[is_left]

    def remove(self, keys: Array) -> None:
        """Takes the slots away from keys that have one, uint64[n], all different."""
        place = self._first_places(keys)
        while keys.size:
            is_found = (self._keys[place] == keys) & (self._slots[place] >= 0)
            self._slots[place[is_found]] = _REMOVED
            is_left = np.flatnonzero(~is_found)
            place, keys = self._next(place[is_left]), keys[is_left]

    def _make_anew(self, more: int) -> None:
        """Makes places for more keys, and none for the removed ones."""
        is_key = self._slots >= 0
        keys, slots = self._keys[is_key], self._slots[is_key]
        self._taken = 0
        self._make_places(max(_LEAST_PLACES, 1 << (_ROOM * (len(keys) + more) - 1).bit_length()))
        self.add(keys, slots)

    def _make_places(self, number: int) -> None:
        self._keys: Array = np.zeros(number, dtype=np.uint64)
        self._slots: Array = np.full(number, NO_SLOT, dtype=np.int64)

    def _first_places(self, keys: Array) -> Array:
        places: Array = (keys & np.uint64(len(self._slots) - 1)).astype(np.int64)
        return places

    def _next(self, places: Array) -> Array:
        following: Array = (places + 1) & (len(self._slots) - 1)
        return following
