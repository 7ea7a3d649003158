"""The HTTP server: connections, bodies, routes, and the numbers for Prometheus.

In come bytes of clients that may be slow, wrong or too many. Out go answers.
Guaranteed: what a client can make the server hold or wait for is bounded.
"""
