"""Columns become ids and weights, through MindPandas.

In come parsed rows and dictionaries. Out go ``id[39]`` and ``weight[39]`` of each row.
Guaranteed: what becomes of a row does not depend on the rows beside it.
"""
