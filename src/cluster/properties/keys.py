"""The keys of ``client.properties``: those used here, those set elsewhere, those refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, NamedTuple

SERVERS = "bootstrap.servers"
PROTOCOL = "security.protocol"
MECHANISM = "sasl.mechanism"
USERNAME = "sasl.username"
PASSWORD = "sasl.password"
JAAS = "sasl.jaas.config"
CA_FILE = "ssl.ca.location"
CA_TEXT = "ssl.ca.pem"
CERTIFICATE_FILE = "ssl.certificate.location"
KEY_FILE = "ssl.key.location"
KEY_PASSWORD = "ssl.key.password"
CRL_FILE = "ssl.crl.location"
CHECKS_HOST = "ssl.endpoint.identification.algorithm"
CHECKS_CERTIFICATE = "enable.ssl.certificate.verification"
TLS_VERSION = "ssl.protocol"
TLS_VERSIONS = "ssl.enabled.protocols"
CLIENT_ID = "client.id"
CLIENT_RACK = "client.rack"
MILLISECONDS = ("connections.max.idle.ms", "metadata.max.age.ms", "reconnect.backoff.ms")

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class Store(NamedTuple):
    """The two keys of a trust store or key store, and how another kind becomes PEM."""

    location: str
    kind: str
    convert: Callable[[str], str]


TRUST_STORE = Store(
    "ssl.truststore.location",
    "ssl.truststore.type",
    lambda path: f"convert it: keytool -list -rfc -keystore {path} > ca.pem",
)
KEY_STORE = Store(
    "ssl.keystore.location",
    "ssl.keystore.type",
    lambda path: (
        f"convert it: keytool -importkeystore -srckeystore {path} -destkeystore client.p12 "
        "-deststoretype PKCS12, then openssl pkcs12 -in client.p12 -out client.pem"
    ),
)

SASL = (MECHANISM, USERNAME, PASSWORD, JAAS)
TLS = (
    CA_FILE,
    CA_TEXT,
    TRUST_STORE.location,
    TRUST_STORE.kind,
    CERTIFICATE_FILE,
    KEY_FILE,
    KEY_STORE.location,
    KEY_STORE.kind,
    KEY_PASSWORD,
    CRL_FILE,
    CHECKS_HOST,
    CHECKS_CERTIFICATE,
    TLS_VERSION,
    TLS_VERSIONS,
)
_USED = (SERVERS, PROTOCOL, *SASL, *TLS, CLIENT_ID, CLIENT_RACK, *MILLISECONDS)

# Each spelling → the name above.
NAMES: Mapping[str, str] = {
    **{name: name for name in _USED},
    "metadata.broker.list": SERVERS,
    "sasl.mechanisms": MECHANISM,
    "ssl.truststore.certificates": CA_TEXT,
}
# Attribute of Tls → the keys that may have set it.
BY_ROLE: Mapping[str, tuple[str, ...]] = {
    "ca_file": (CA_FILE, TRUST_STORE.location),
    "ca_text": (CA_TEXT,),
    "certificate_file": (CERTIFICATE_FILE, KEY_STORE.location),
    "key_file": (KEY_FILE,),
    "key_password": (KEY_PASSWORD,),
    "crl_file": (CRL_FILE,),
}
SECRETS = frozenset(
    {PASSWORD, JAAS, KEY_PASSWORD, "ssl.keystore.password", "ssl.truststore.password"}
)

_FILES = "is not read from the text: write it into a PEM file, named by"
REFUSED: Mapping[str, str] = {
    "ssl.certificate.pem": f"{_FILES} {CERTIFICATE_FILE}",
    "ssl.keystore.certificate.chain": f"{_FILES} {CERTIFICATE_FILE}",
    "ssl.key.pem": f"{_FILES} {KEY_FILE}",
    "ssl.keystore.key": f"{_FILES} {KEY_FILE}",
    "config.providers": "is not supported: ${NAME} of an environment variable is",
    "ssl.cipher.suites": "is not supported: OpenSSL's own choice counts",
    "sasl.kerberos.service.name": "is not supported: there is no Kerberos (GSSAPI) here",
    "sasl.oauthbearer.token.endpoint.url": "is not supported: there is no OAUTHBEARER here",
    "sasl.login.callback.handler.class": "is not supported: PLAIN and SCRAM need none",
    "sasl.client.callback.handler.class": "is not supported: PLAIN and SCRAM need none",
}

# Other settings of clients, which such files often hold. The scripts or their flags set them.
IGNORED = frozenset(
    {
        "acks",
        "allow.auto.create.topics",
        "api.version.request",
        "auto.commit.interval.ms",
        "auto.offset.reset",
        "batch.size",
        "broker.address.family",
        "buffer.memory",
        "client.dns.lookup",
        "compression.type",
        "compression.codec",
        "default.api.timeout.ms",
        "delivery.timeout.ms",
        "enable.auto.commit",
        "enable.idempotence",
        "fetch.max.bytes",
        "fetch.max.wait.ms",
        "fetch.min.bytes",
        "group.id",
        "group.instance.id",
        "heartbeat.interval.ms",
        "isolation.level",
        "key.deserializer",
        "key.serializer",
        "linger.ms",
        "log_level",
        "max.block.ms",
        "max.in.flight.requests.per.connection",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "max.poll.records",
        "max.request.size",
        "message.max.bytes",
        "message.timeout.ms",
        "partition.assignment.strategy",
        "queue.buffering.max.ms",
        "receive.buffer.bytes",
        "reconnect.backoff.max.ms",
        "request.required.acks",
        "request.timeout.ms",
        "retries",
        "retry.backoff.ms",
        "send.buffer.bytes",
        "session.timeout.ms",
        "socket.connection.setup.timeout.max.ms",
        "socket.connection.setup.timeout.ms",
        "socket.keepalive.enable",
        "socket.timeout.ms",
        "ssl.keystore.password",
        "ssl.truststore.password",
        "statistics.interval.ms",
        "topic.metadata.refresh.interval.ms",
        "transactional.id",
        "value.deserializer",
        "value.serializer",
    }
)
IGNORED_PREFIXES = ("schema.registry.", "basic.auth.")
