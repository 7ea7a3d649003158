"""A ``client.properties`` file → the settings of a connection to Kafka.

Keys may be spelled as librdkafka or as Java spells them. No message holds a value that may be a
password.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from src.cluster.broker_list import ClusterConfigError, broker_list
from src.cluster.properties import keys
from src.cluster.properties.jaas import PLAIN_MODULE, Login, parse_jaas
from src.cluster.properties.syntax import PropertiesError, Property, expanded, parse_properties
from src.cluster.properties.tls import VERSIONS, Tls, TlsError, kind_of_store
from src.config_values import ValueProblem, converted
from src.process.flags import did_you_mean
from src.process.paths import PathError, expanded_path


class ClientProperties:
    """The keys of a file, each once, with its value; the methods turn them into settings.

    Args:
        path: The file.
        environment: For ``${NAME}`` in values.

    Attributes:
        notes: What the user should know, one line each.

    Raises:
        ClusterConfigError: The file can't be read, or a key is unknown or stands twice.
    """

    def __init__(self, path: str, environment: Mapping[str, str]) -> None:
        self._path = path
        self._environment = environment
        self.notes: list[str] = []
        self._found: dict[str, Property] = {}
        ignored = []
        for entry in _entries(path, self.notes):
            if self._is_ignored(entry.key):
                ignored.append(entry.key)
            else:
                self._add(entry)
        if ignored:
            self.notes.append(
                f"{path}: {', '.join(ignored)}: not used, the scripts and their flags set this"
            )

    def servers(self) -> tuple[str, ...] | None:
        """The broker list, or None where the file names none."""
        entry = self._found.get(keys.SERVERS)
        if entry is None:
            return None
        return broker_list(self._value(entry), f"{self._path}, line {entry.line}: {entry.key}")

    def protocol(self) -> str:
        """The security protocol; PLAINTEXT where the file says nothing of security."""
        if keys.PROTOCOL in self._found:
            return self._choice(keys.PROTOCOL, keys.PROTOCOLS)
        for name in (*keys.SASL, *keys.TLS):
            if name in self._found and name != keys.CHECKS_HOST:
                raise self._error(
                    self._found[name],
                    f"is set, but security.protocol is not: add one of {', '.join(keys.PROTOCOLS)}",
                )
        return "PLAINTEXT"

    def login(self, protocol: str) -> dict[str, str]:
        """kafka-python's arguments for SASL; empty without SASL."""
        if not protocol.startswith("SASL_"):
            for name in keys.SASL:
                if name in self._found:
                    raise self._error(
                        self._found[name], f"is set, but security.protocol is {protocol}"
                    )
            return {}
        jaas = self._jaas()
        mechanism = self._mechanism(jaas)
        username = self._credential(keys.USERNAME, jaas.username if jaas else None)
        password = self._credential(keys.PASSWORD, jaas.password if jaas else None)
        if mechanism != "PLAIN":
            # RFC 5802, which kafka-python leaves to its caller.
            username = username.replace("=", "=3D").replace(",", "=2C")
        return {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": password,
        }

    def tls(self, protocol: str) -> Tls | None:
        """What TLS needs; None for a protocol without it."""
        named = [name for name in keys.TLS if name in self._found]
        if not protocol.endswith("SSL"):
            if named:
                texts = ", ".join(self._found[name].key for name in named)
                self.notes.append(
                    f"{self._path}: {texts}: not used by security.protocol={protocol}"
                )
            return None
        checks_certificate = self._choice(keys.CHECKS_CERTIFICATE, ("TRUE", "FALSE"), "TRUE")
        check = self._choice(keys.CHECKS_HOST, ("HTTPS", "NONE", ""), "HTTPS")
        if checks_certificate == "FALSE":
            self.notes.append(f"{self._path}: the broker's certificate is not checked")
        self._choice(keys.TLS_VERSION, ("TLS", *map(str.upper, VERSIONS)), "TLS")
        tls = Tls(
            ca_file=self._file(keys.CA_FILE) or self._store(keys.TRUST_STORE),
            ca_text=self.text(keys.CA_TEXT),
            certificate_file=self._file(keys.CERTIFICATE_FILE) or self._store(keys.KEY_STORE),
            key_file=self._file(keys.KEY_FILE),
            key_password=self.text(keys.KEY_PASSWORD),
            crl_file=self._file(keys.CRL_FILE),
            checks_certificate=checks_certificate == "TRUE",
            checks_host=check == "HTTPS",
            versions=self._versions(),
        )
        self._check(tls)
        return tls

    def milliseconds(self) -> dict[str, int]:
        """kafka-python's arguments for the durations of the file."""
        found = {}
        for name in keys.MILLISECONDS:
            if name in self._found:
                text = self.text(name)
                if not (text.isascii() and text.isdigit() and int(text) > 0):
                    raise self._error(self._found[name], "expected milliseconds, a whole number")
                found[name.replace(".", "_")] = int(text)
        return found

    def _add(self, entry: Property) -> None:
        name = keys.NAMES.get(entry.key)
        if name is None:
            reason = keys.REFUSED.get(entry.key) or f"not known{_near_match(entry.key)}"
            raise self._error(entry, reason)
        if len(entry.value) > 1 and entry.value[0] == entry.value[-1] and entry.value[0] in "\"'":
            where = f"{self._path}, line {entry.line}: {entry.key}"
            self.notes.append(f"{where}: its quotation marks are part of the value")
        other = self._found.get(name)
        if other is None:
            self._found[name] = entry
        elif other.key == entry.key:
            raise self._error(entry, f"stands twice, first in line {other.line}")
        elif other.value != entry.value:
            raise self._error(
                entry, f"differs from {other.key} in line {other.line}, which means the same"
            )

    @staticmethod
    def _is_ignored(key: str) -> bool:
        return key in keys.IGNORED or key.startswith(keys.IGNORED_PREFIXES)

    def _jaas(self) -> Login | None:
        entry = self._found.get(keys.JAAS)
        if entry is None:
            return None
        whole = entry.value.startswith("${") and entry.value.endswith("}")
        try:
            # Variables are replaced last: what they hold may have quotation marks.
            return parse_jaas(self._value(entry) if whole else entry.value)
        except ValueError as error:
            if not whole and entry.raw != entry.value:
                try:  # quotation marks that were escaped once only
                    return parse_jaas(entry.raw)
                except ValueError:
                    pass  # the fault of the first reading is the one to name
            raise self._error(entry, str(error)) from None

    def _mechanism(self, jaas: Login | None) -> str:
        if keys.MECHANISM in self._found:
            mechanism = self._choice(keys.MECHANISM, keys.MECHANISMS)
        elif jaas is not None and jaas.module == PLAIN_MODULE:
            mechanism = "PLAIN"
        else:
            raise ClusterConfigError(
                f"{self._path}: sasl.mechanism is missing: {', '.join(keys.MECHANISMS)}"
            )
        if jaas is not None and (jaas.module == PLAIN_MODULE) != (mechanism == "PLAIN"):
            raise self._error(
                self._found[keys.JAAS], f"its module does not fit sasl.mechanism={mechanism}"
            )
        return mechanism

    def _credential(self, name: str, of_jaas: str | None) -> str:
        """User or password: from its own key, or from the JAAS line; both may not differ."""
        entry = self._found.get(name)
        own = self._value(entry) if entry is not None else None
        if of_jaas is not None:
            jaas_entry = self._found[keys.JAAS]
            of_jaas = self._expand(of_jaas, jaas_entry)
            if entry is not None and own != of_jaas:
                raise self._error(entry, f"differs from sasl.jaas.config in line {jaas_entry.line}")
        found = own if own is not None else of_jaas
        if not found:
            where = self._error(entry, "is empty") if entry is not None else None
            raise where or ClusterConfigError(f"{self._path}: {name} is missing or empty")
        return found

    def _versions(self) -> tuple[str, ...]:
        entry = self._found.get(keys.TLS_VERSIONS)
        if entry is None:
            return tuple(VERSIONS)
        known = {version.upper(): version for version in VERSIONS}
        wanted = [version.strip().upper() for version in self._value(entry).split(",")]
        if not set(wanted) <= set(known):
            raise self._error(entry, f"expected {' or '.join(VERSIONS)}, separated by commas")
        return tuple(known[version] for version in wanted)

    def _store(self, names: keys.Store) -> str:
        """A PEM store's path; empty where there is none."""
        entry = self._found.get(names.location)
        if entry is None:
            return ""
        path = self._file(names.location)
        kind = self._choice(names.kind, ("PEM", "JKS", "PKCS12"), "")
        try:
            kind = kind_of_store(path) or kind or "JKS"
        except OSError as error:
            raise self._error(entry, f"{path}: {error.strerror}") from None
        if kind != "PEM":
            raise self._error(entry, f"{path} is no PEM file but {kind}; {names.convert(path)}")
        return path

    def _check(self, tls: Tls) -> None:
        """Loads all files once."""
        if tls.key_file and not tls.certificate_file:
            raise self._error(self._found[keys.KEY_FILE], "needs ssl.certificate.location too")
        try:
            tls.context()
        except TlsError as error:
            for name in keys.BY_ROLE[error.role]:
                if name in self._found:
                    raise self._error(self._found[name], str(error)) from None
            raise ClusterConfigError(f"{self._path}: {error}") from None

    def _choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """A value that is one of a few words, in capitals."""
        entry = self._found.get(name)
        if entry is None:
            return default or ""
        value = self._value(entry).upper()
        if value not in allowed:
            shown = ", ".join(word or "nothing" for word in allowed)
            raise self._error(entry, f"{self._value(entry)!r} is not supported; expected {shown}")
        return value

    def _file(self, name: str) -> str:
        entry = self._found.get(name)
        if entry is None:
            return ""
        try:
            return expanded_path(self._value(entry))
        except PathError as error:
            raise self._error(entry, str(error)) from None

    def text(self, name: str) -> str:
        """The value of a key; empty where it is not set."""
        return self._value(self._found[name]) if name in self._found else ""

    def name(self, key: str) -> str:
        """As ``text``, for what brokers log: without control characters."""
        try:
            return str(converted(self.text(key), "str"))
        except ValueProblem as problem:
            raise self._error(self._found[key], str(problem)) from None

    def _value(self, entry: Property) -> str:
        return self._expand(entry.value, entry).strip()

    def _expand(self, text: str, entry: Property) -> str:
        try:
            return expanded(text, self._environment)
        except ValueError as error:
            raise self._error(entry, str(error)) from None

    def _error(self, entry: Property, reason: str) -> ClusterConfigError:
        return ClusterConfigError(f"{self._path}, line {entry.line}: {entry.key}: {reason}")


def _entries(path: str, notes: list[str]) -> list[Property]:
    """The lines of the file; a note where other users can read a password in it."""
    try:
        content = Path(path).read_bytes()
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ClusterConfigError(f"{path}: {error.strerror}") from None
    try:
        entries = parse_properties(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ClusterConfigError(
            f"{path}, line {line}: not UTF-8; store the file as UTF-8 or write \\uXXXX"
        ) from None
    except PropertiesError as error:
        raise ClusterConfigError(f"{path}, line {error.line}: {error}") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH) and any(map(_holds_secret, entries)):
        notes.append(f"{path} holds a password and other users can read it: chmod 600 it")
    return entries


def _holds_secret(entry: Property) -> bool:
    """Whether a line holds a password itself, not the name of a variable with one."""
    return entry.key in keys.SECRETS and bool(entry.value) and "${" not in entry.value


def _near_match(key: str) -> str:
    similar = key.lower().replace("_", ".")
    return did_you_mean(similar, [*keys.NAMES, *keys.IGNORED])
