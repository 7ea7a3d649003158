"""A broker with one listener for each way to connect, rights, and users with and without them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import UserScramCredentialUpsertion

from examples.services.common import HOST
from examples.services.kafka_service import KafkaService
from src.process.ports import free_port
from tests.cluster.certificates import Authority, Certificate

PASSWORD = 'pass,word = "it\'s" ${x}'  # all that a file could stumble over
USERS = ("alice", "bob")
UNREACHABLE = "192.0.2.1"  # reserved for documentation, so nobody answers


@dataclass
class SecureBroker:
    """A running broker and what its clients need.

    Attributes:
        service: The broker; its own address is a PLAINTEXT listener for a superuser.
        authority: Has signed the broker's certificates.
        client: A client's certificate.
        ports: Name of a listener → its port.
    """

    service: KafkaService
    authority: Authority
    client: Certificate
    ports: dict[str, int] = field(default_factory=dict)

    def address(self, listener: str) -> str:
        """host:port of a listener, or of the superuser's, ``plaintext``."""
        if listener == "plaintext":
            return self.service.bootstrap_servers
        return f"{HOST}:{self.ports[listener]}"

    def properties(self, folder: Path, *lines: str, user: str = "alice") -> Path:
        """A client.properties file for the listener ``login``, with some more lines."""
        path = folder / "client.properties"
        own = {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.authority.file),
            "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.username": user,
            "sasl.password": PASSWORD.replace("${", "$${"),
        }
        for line in lines:
            key, _, value = line.partition("=")
            own[key] = value
        path.write_text("".join(f"{key}={value}\n" for key, value in own.items() if value))
        path.chmod(0o600)
        return path


@contextlib.contextmanager
def secure_broker(folder: Path) -> Iterator[SecureBroker]:
    """Starts the broker; it ends with the block."""
    authority = Authority(folder / "certificates", "authority")
    stores = {
        "good": authority.sign("broker"),
        "expired": authority.sign("expired", days=-1),
        "elsewhere": authority.sign("elsewhere", host="kafka.example"),
    }
    ports = {name: free_port() for name in ("login", "tls", "mutual", "expired", "elsewhere")}
    ports |= {name: free_port() for name in ("lost", "open_login")}
    port, controller_port = free_port(), free_port()
    addresses = {
        "PLAINTEXT": f"{HOST}:{port}",
        **{n.upper(): f"{HOST}:{p}" for n, p in ports.items()},
    }
    protocols = {"LOGIN": "SASL_SSL", "OPEN_LOGIN": "SASL_PLAINTEXT", "LOST": "PLAINTEXT"}
    protocols |= {name: "SSL" for name in ("TLS", "MUTUAL", "EXPIRED", "ELSEWHERE")}
    advertised = {**addresses, "LOST": f"{UNREACHABLE}:9092"}
    properties = {
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": _joined(addresses) + f",CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": _joined(advertised),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        + ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:alice",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(stores["good"].both),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.expired.ssl.keystore.location": str(stores["expired"].both),
        "listener.name.elsewhere.ssl.keystore.location": str(stores["elsewhere"].both),
    }
    for name in ("login", "open_login"):
        mechanisms = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
        properties[f"listener.name.{name}.sasl.enabled.mechanisms"] = ",".join(mechanisms)
        properties[f"listener.name.{name}.plain.sasl.jaas.config"] = (
            "org.apache.kafka.common.security.plain.PlainLoginModule required "
            + " ".join(f'user_{user}="{user}-secret"' for user in USERS)
            + ";"
        )
        for mechanism in mechanisms[1:]:
            properties[f"listener.name.{name}.{mechanism.lower()}.sasl.jaas.config"] = (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            )
    with KafkaService(folder / "kafka", port, properties=properties) as service:
        with contextlib.closing(
            KafkaAdminClient(bootstrap_servers=service.bootstrap_servers)
        ) as admin:
            _add_users(admin)
        yield SecureBroker(service, authority, authority.sign("client"), ports)


def _joined(addresses: dict[str, str]) -> str:
    return ",".join(f"{name}://{address}" for name, address in addresses.items())


def _add_users(admin: KafkaAdminClient) -> None:
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        added = [UserScramCredentialUpsertion(user, mechanism, PASSWORD) for user in USERS]
        assert not any(admin.alter_user_scram_credentials(added).values())
