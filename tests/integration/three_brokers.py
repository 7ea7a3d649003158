"""A cluster of three brokers on this machine, each of which can be killed and started again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from examples.services.common import HOST
from examples.services.kafka_service import KafkaService
from src.process.ports import free_port

SIZE = 3
OFFSETS = "__consumer_offsets"


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
        found: int = self._partitions(topic)[partition]["leader_id"]
        return found

    def duties(self, topic: str) -> dict[str, int]:
        """What the scripts depend on → the node that does it; without what nobody does just now.

        These are the leaders of the topic's partitions, the coordinator of all groups, which
        leads the one partition of their offsets, and the controller of the cluster.
        """
        led = {f"partition {number}": each for number, each in self._partitions(topic).items()}
        led["coordinator"] = self._partitions(OFFSETS)[0]
        duties = {duty: each["leader_id"] for duty, each in led.items() if each["leader_id"] > 0}
        with self._admin() as admin:
            (quorum,) = admin.describe_metadata_quorum()["topics"]
        return {**duties, "controller": quorum["partitions"][0]["leader_id"]}

    def has_taken_over(self, topic: str, killed: int) -> bool:
        """Whether other nodes do all that a killed one did."""
        with contextlib.suppress(KafkaError):
            duties = self.duties(topic)
            return len(duties) == len(self._partitions(topic)) + 2 and killed not in duties.values()
        return False

    def is_in_sync(self, topic: str) -> bool:
        """Whether every node has all rows of a topic, and all that the groups have committed."""
        return min(self.copies(topic), self.copies(OFFSETS)) == SIZE

    def copies(self, topic: str) -> int:
        """How many nodes have all rows of a topic, at least; 0 where nobody can tell."""
        with contextlib.suppress(KafkaError):
            partitions = self._partitions(topic).values()
            return min((len(each["isr_nodes"]) for each in partitions), default=SIZE)
        return 0

    def _partitions(self, topic: str) -> dict[int, dict[str, Any]]:
        with self._admin() as admin:
            (described,) = admin.describe_topics([topic])
        return {each["partition_index"]: each for each in described["partitions"]}

    def _admin(self) -> contextlib.closing[Any]:
        return contextlib.closing(
            KafkaAdminClient(bootstrap_servers=self.bootstrap_servers.split(","))
        )


@contextlib.contextmanager
def three_brokers(folder: Path) -> Iterator[ThreeBrokers]:
    """Starts the cluster; it ends with the block."""
    cluster = ThreeBrokers(folder)
    with contextlib.ExitStack() as running, ThreadPoolExecutor(SIZE) as pool:
        for broker in cluster.brokers.values():
            running.callback(_end, broker)
        # No broker answers before two of them have elected a controller.
        list(pool.map(KafkaService.start, cluster.brokers.values()))
        yield cluster


def _end(broker: KafkaService) -> None:
    # Asked to stop, the last one would wait for a quorum that is gone.
    if broker.started_here:
        broker.kill()
