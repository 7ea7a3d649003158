"""How well each way learns, on the same rows in the same order.

In: a Criteo file or made rows. Out: AUC, log loss and rows/s of each way.
Guaranteed: each row is scored before it is learnt from.
"""
