"""The training steps in another library, for comparison.

In: initial weights and batches in a file. Out: losses, times of rounds, and a rate of products.
Guaranteed: the project imports nothing of it; each library has an environment of its own.
"""
