"""Bytes become columns: the Criteo row format.

In come lines of a file or values of messages. Out go typed columns, and the bad rows by name.
Guaranteed: whether a line is a row depends on its own bytes alone.
"""
