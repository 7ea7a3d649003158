"""The vocabulary that grows with the stream."""
