"""The connection to a Kafka cluster: its address, and its topic.

In come a broker list, a ``client.properties`` file and a topic's name. Out go a connection and the
topic's partitions.
Guaranteed: a broker that is away is waited for, but not for ever, and a refusal is one line.
"""
