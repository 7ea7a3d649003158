"""How a client connects to a cluster: the broker list, and what a client.properties file adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from src.cluster.broker_list import broker_list


@dataclass(frozen=True)
class ClientSettings:
    """Where the brokers are and how to connect to them; its text is the broker list.

    Attributes:
        servers: host:port of each broker, IPv6 addresses in brackets.
        options: Arguments of every client of kafka-python; they may hold passwords.
    """

    servers: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cluster: str | ClientSettings) -> ClientSettings:
        """The settings themselves, or those of a cluster that needs no more than a broker list.

        Raises:
            ClusterConfigError: The broker list is malformed.
        """
        return cluster if isinstance(cluster, ClientSettings) else cls(broker_list(cluster))

    def __str__(self) -> str:
        return ",".join(self.servers)

    def client_options(self) -> dict[str, Any]:
        """The arguments of kafka-python's consumer, producer and admin client."""
        return {"bootstrap_servers": list(self.servers), **self.options}
