"""The resident trainer: the stream as a dataset, callbacks and the session.

In come windows from the channel. Out go checkpoints and the committed position.
Guaranteed: weights and position are one unit, and no row is lost or trained twice.
"""
