"""Numbers about the run: progressive metrics, numbers for Prometheus, files of lines.

In come labels, logits and counts. Out go AUC, log loss, calibration and lag.
Guaranteed: serving and reading numbers never stops the consumer or the trainer.
"""
