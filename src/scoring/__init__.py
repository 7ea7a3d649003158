"""Scores rows over HTTP with the newest published version, and follows what is published.

In come requests in two dialects, and the folder of versions. Out go scores, each with the version
and the position of the stream that it belongs to.
Guaranteed: one version answers a request from its beginning to its end. No file of this room
imports Kafka, MindSpore or MindPandas.
"""
