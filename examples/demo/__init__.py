"""One run of the whole flow on this machine, for quickstart.py.

In: a plan made from the flags. Out: loss lines, a checkpoint and one line that sums the run up.
Guaranteed: whatever was started is stopped, however the run ends.
"""
