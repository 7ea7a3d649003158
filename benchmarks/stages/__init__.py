"""The stages of the stream, each timed against the documented way.

In: settings with sizes, repeats, a broker and an engine's address. Out: results in one unit.
Guaranteed: both ways get the same input, and a stage whose outputs differ fails.
"""
