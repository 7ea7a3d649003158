"""How a client connects to a cluster: the broker list, and what ``--kafka_config`` adds to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from src.cluster.broker_list import broker_list
from src.cluster.names import DIRECT_URL
from src.cluster.properties import keys
from src.cluster.properties.client_properties import ClientProperties
from src.cluster.properties.tls import Tls
from src.config import read_defaults

CLIENT_ID = "mindspore-online-learning"


@dataclass(frozen=True)
class ClientSettings:
    """Where the brokers are and how to connect to them.

    Its text is the broker list, and neither its text nor its repr holds a password.

    Attributes:
        servers: host:port of each broker, IPv6 addresses in brackets.
        protocol: The security protocol.
        login: kafka-python's arguments for SASL.
        tls: What TLS needs; None without TLS.
        milliseconds: kafka-python's arguments for durations.
        client_id: What the brokers' logs and quotas call this client.
        rack: Where this client runs, so that a consumer can read from a near replica.
        notes: What the user should know about the settings, one line each.
    """

    servers: tuple[str, ...]
    protocol: str = "PLAINTEXT"
    login: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: Tls | None = None
    milliseconds: Mapping[str, int] = field(default_factory=dict)
    client_id: str = CLIENT_ID
    rack: str = ""
    notes: tuple[str, ...] = ()

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
        """The arguments of any client of kafka-python; they hold the password."""
        options = {
            "bootstrap_servers": list(self.servers),
            "client_id": self.client_id,
            "proxy_url": DIRECT_URL,  # no proxy: it selects look-ups that end in time
            **self.milliseconds,
            **self.login,
        }
        if self.tls is not None:
            options["ssl_context"] = self.tls.context()
        return {**options, "security_protocol": self.protocol}

    def hosts(self) -> list[tuple[str, int]]:
        """Host, without brackets, and port of each broker of the list."""
        pairs = [server.rpartition(":") for server in self.servers]
        return [(host.strip("[]"), int(port)) for host, _, port in pairs]

    @property
    def user(self) -> str:
        """Who logs in; empty without SASL."""
        return self.login.get("sasl_plain_username", "")

    def consumer_options(self) -> dict[str, Any]:
        """The arguments of kafka-python's consumer."""
        return {**self.client_options(), "client_rack": self.rack}

    def log_notes(self, logger: logging.Logger) -> None:
        """Logs what the user should know, once for each script."""
        for note in self.notes:
            logger.warning("%s", note)


def client_settings(bootstrap_servers: str, kafka_config: str) -> ClientSettings:
    """The settings that both flags give.

    A broker list that is not the default counts. Otherwise the file's list does, where it has one.

    Args:
        bootstrap_servers: host:port,...
        kafka_config: A ``client.properties`` file; empty for none.

    Raises:
        ClusterConfigError: The broker list or the file can't be used.
    """
    servers = broker_list(bootstrap_servers)
    if not kafka_config:
        return ClientSettings(servers)
    properties = ClientProperties(kafka_config, os.environ)
    own_servers = properties.servers()
    if own_servers is not None and own_servers != servers:
        if servers == broker_list(read_defaults().values["bootstrap_servers"]):
            servers = own_servers
        else:
            properties.notes.append(
                f"--bootstrap_servers={','.join(servers)} counts, "
                f"not the brokers that {kafka_config} names"
            )
    protocol = properties.protocol()
    return ClientSettings(
        servers,
        protocol,
        properties.login(protocol),
        properties.tls(protocol),
        properties.milliseconds(),
        properties.name(keys.CLIENT_ID) or CLIENT_ID,
        properties.name(keys.CLIENT_RACK),
        tuple(properties.notes),
    )
