"""Processes beside the one that measures.

In: flags, or commands through a pipe. Out: what was measured there, or what came through.
Guaranteed: none of them outlives the block that started it.
"""
