"""What can be wrong with a dictionary or a vocabulary; the message says it on one line."""

from __future__ import annotations


class DictionaryError(ValueError):
    """A dictionary file that can't be used; the message names file, key and value."""


class VocabularyError(ValueError):
    """A saved vocabulary that can't be read, or does not fit."""
