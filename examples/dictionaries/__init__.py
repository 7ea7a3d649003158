"""The three dictionaries and a profile from Criteo files, for process_data.py.

In: Criteo files without a header. Out: three pickled dictionaries and a profile of the rows.
Guaranteed: files larger than memory can be read, and lines that are no rows are named and counted.
"""
