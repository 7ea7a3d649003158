"""A ``client.properties`` file, as other clients of Kafka read it, → settings of a connection.

Guaranteed: a line that has no effect here is named, and no message holds a password.
"""
