"""Windows of rows on their way from the consumer to the trainer, through the yr engine.

In come features in stream order. Out go batches in the same order, each with its position.
Guaranteed: once a window is acknowledged, every shard's queue holds its rows.
"""
