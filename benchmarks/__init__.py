"""Benchmarks: every stage of the stream against the documented way, and how cost and learning go.

In: sample rows and their dictionaries. Out: tables, and JSON files under build/.
Guaranteed: ways that are compared get the same input in the same run.
"""
