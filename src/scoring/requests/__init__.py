"""What clients send and get: two dialects, the rows in a request, and the scores of these rows.

In come bodies. Out go rows, and the bad ones by name; then bodies with scores.
"""
