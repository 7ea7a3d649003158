"""Scripts that a user runs beside the documented steps; what only helps them is in the folders.

In: flags, Criteo files, checkpoints and metrics files. Out: rows, dictionaries, scores, pages, or a
whole run of the flow. Guaranteed: each script explains its flags with --help, and exits with 1 and
one line after an error.
"""
