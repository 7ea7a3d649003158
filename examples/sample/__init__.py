"""Made rows in Criteo's format, for make_sample.py.

In: the number of the first row, how many rows, and a seed. Out: tables of rows, or files of them.
Guaranteed: a row depends on its number and the seed alone.
"""
