"""The consumer: source → window → column functions → channel.

In come the rows of a topic and the trainer's commits. Out go windows.
Guaranteed: each row is in exactly one window of a session, or is kept as a dead letter.
"""
