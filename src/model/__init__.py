"""Wide & Deep: configuration, forward pass and losses, optimizers, training step.

In comes a batch (id, weight, label). Out go both losses and the logits, and moved parameters.
Guaranteed: every row is scored by weights that have not seen it.
"""
