"""Values become ids: the three fixed dictionaries and the vocabulary that grows with the stream.

In come counts of values, pickle files, or batches with unknown values. Out go ids.
Guaranteed: the same rows in the same order give the same ids.
"""
