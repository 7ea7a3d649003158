"""The Kafka edge: the producer, and the source of rows.

In come rows of files, or messages with their offsets. Out go acknowledged messages, or held rows.
Guaranteed: no row is released before its reader has accounted for it.
"""
