"""Numbers about the run: scores before training, Prometheus, files of lines.

In come labels, logits and counts. Out go AUC, log loss, calibration and lag.
Guaranteed: watching never ends what it watches.
"""
