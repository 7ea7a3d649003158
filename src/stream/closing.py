"""Ends a producer of kafka-python, whatever it still holds."""

from __future__ import annotations

from kafka import KafkaProducer
from kafka.errors import KafkaError

CLOSE_SECONDS = 0.5


def close_producer(producer: KafkaProducer) -> None:
    """Closes a producer; what it has not sent yet is given up."""
    try:
        producer.close(timeout=CLOSE_SECONDS)
    except KafkaError:
        # kafka-python's close (3.0.12) raises where messages are still in flight. Its thread goes
        # on sending them, and the object's end prints a traceback.
        producer._sender.force_close()
        producer._sender.join(CLOSE_SECONDS)
        producer.close(timeout=CLOSE_SECONDS)
