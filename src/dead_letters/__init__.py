"""The rows that can't become features: kept in a topic of their own, and sent again once corrected.

In come bad rows with their offsets. Out go dead letters, and corrected rows back to their topic.
Guaranteed: each bad row is kept once, and each corrected row is sent once.
"""
