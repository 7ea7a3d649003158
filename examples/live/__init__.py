"""A live run: rows arrive at a steady rate, a model learns from them and answers requests.

In come a rate and a configuration. Out go a served model, and how fresh its answers are.
Guaranteed: a probe counts as learnt only when an answer shows it in both position and score.
"""
