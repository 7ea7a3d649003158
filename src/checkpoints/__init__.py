"""Checkpoints: weights, optimizer state, step and position as one unit in a folder.

In come a network's parameters and a position. Out go units that are durable or not there. They are
written while training goes on.
Guaranteed: a torn or damaged unit is named, and the one before it is used.
"""
