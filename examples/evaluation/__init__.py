"""Scores of a file's rows by a checkpoint, for evaluate.py.

In: a checkpoint, the dictionaries and a Criteo file. Out: AUC, log loss, normalised entropy,
calibration and the values out of vocabulary. Guaranteed: features are made by the consumer's own
code, and nothing is trained.
"""
