"""The documented way: plain code that does what the example's page describes.

In: what each stage of the stream takes. Out: what it gives on, so that both can be compared.
Guaranteed: nothing is clever, and nothing is slow on purpose.
"""
