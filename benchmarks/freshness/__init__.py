"""How long it takes until an answer has learnt from a row, and where the time goes."""
