"""Versions of the model for those who serve it: full ones, and deltas of what has changed.

In come weights, a vocabulary and a position. Out go folders of files, and one that names the chain.
Guaranteed: a version that is named is whole and durable, and stays as it is. No file of this room
imports Kafka or MindSpore.
"""
