"""The Kafka edge: the topic, what is sent to it, what is read from it, and dead letters.

In come rows of files, or messages with their offsets. Out go acknowledged messages, or held rows.
Guaranteed: a row is dropped by nobody but who has said what became of it.
"""
