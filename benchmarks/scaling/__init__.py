"""How cost grows: with one size at a time, and over ranks.

In: sizes or numbers of ranks. Out: tables, and for sizes a picture.
Guaranteed: each point is measured in processes of its own.
"""
