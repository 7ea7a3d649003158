"""Apache Kafka and the yr engine on this machine.

In: a data folder, ports and the engine's address. Out: running services with their addresses.
Guaranteed: a service that runs already is used and never stopped; what was started in code does
not outlive the process that started it.
"""
