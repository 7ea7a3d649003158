"""What any process of the project needs: a stop flag, logging, durable files, ports, children.

In come requests to the operating system. Out go small tools that do not depend on rows or models.
Guaranteed: nothing here imports another room.
"""
