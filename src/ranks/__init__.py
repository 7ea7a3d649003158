"""Many ranks as one trainer: launchers, supervisor, meeting, rounds and exchange of gradients.

In come the same parts as for one card, on each rank. Out goes one trained model.
Guaranteed: the ranks step together, stop together and fail together.
"""
