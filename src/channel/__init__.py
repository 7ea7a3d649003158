"""Windows of rows on their way from the consumer to the trainer, through the yr engine.

In come features in stream order. Out go batches in the same order, with their position.
Guaranteed: a window that was acknowledged lies in the queue of every shard.
"""
