"""The page that report.py writes.

In: the metrics files of one or several runs. Out: one HTML page, and its pictures as PNG files.
Guaranteed: the page needs no other file, and steps that were trained again count once.
"""
