"""What any process of the project needs: a stop flag, logging, durable files, ports and children.

In comes what the operating system gives. Out go small tools that know nothing of rows or models.
Guaranteed: nothing here imports another room.
"""
