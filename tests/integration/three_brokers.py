"""A cluster of three brokers on this machine, each of which can be killed and started again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kafka import KafkaAdminClient

from examples.services.common import HOST
from examples.services.kafka_service import KafkaService
from src.process.ports import free_port

SIZE = 3


class ThreeBrokers:
    """Three brokers, which together are also the cluster's controllers.

    Args:
        folder: For their data.

    Attributes:
        brokers: Node id → the broker.
    """

    def __init__(self, folder: Path) -> None:
        nodes = range(1, SIZE + 1)
        ports = {node: (free_port(), free_port()) for node in nodes}
        voters = ",".join(f"{node}@{HOST}:{ports[node][1]}" for node in nodes)
        self.brokers = {}
        for node, (port, controller_port) in ports.items():
            properties = {
                "node.id": str(node),
                "controller.quorum.voters": voters,
                "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
                "offsets.topic.replication.factor": str(SIZE),
                "transaction.state.log.replication.factor": str(SIZE),
                "transaction.state.log.min.isr": "2",
                "default.replication.factor": str(SIZE),
                "min.insync.replicas": "2",
                "replica.lag.time.max.ms": "5000",
            }
            self.brokers[node] = KafkaService(folder / str(node), port, properties=properties)

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all three."""
        return ",".join(broker.bootstrap_servers for broker in self.brokers.values())

    def leader(self, topic: str, partition: int = 0) -> int:
        """The node that leads a partition."""
        with contextlib.closing(
            KafkaAdminClient(bootstrap_servers=self.bootstrap_servers.split(","))
        ) as admin:
            (described,) = admin.describe_topics([topic])
        found: int = next(
            each["leader_id"]
            for each in described["partitions"]
            if each["partition_index"] == partition
        )
        return found


@contextlib.contextmanager
def three_brokers(folder: Path) -> Iterator[ThreeBrokers]:
    """Starts the cluster; it ends with the block."""
    cluster = ThreeBrokers(folder)
    with contextlib.ExitStack() as running, ThreadPoolExecutor(SIZE) as pool:
        for broker in cluster.brokers.values():
            running.callback(broker.stop)
        # No broker answers before two of them have elected a controller.
        list(pool.map(KafkaService.start, cluster.brokers.values()))
        yield cluster
