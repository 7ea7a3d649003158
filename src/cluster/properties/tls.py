"""What TLS needs: certificates to trust, and this client's own certificate."""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
from dataclasses import dataclass, field

PEM_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----"
)
JKS_MAGIC = b"\xfe\xed\xfe\xed"
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


class TlsError(ValueError):
    """A file of certificates or keys can't be used; the message holds no secret.

    Attributes:
        role: The attribute of ``Tls`` at fault.
    """

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(reason)
        self.role = role


@dataclass(frozen=True)
class Tls:
    """How the broker's certificate is checked, and which one the client shows.

    Attributes:
        ca_file: PEM file or folder of the certificates to trust; empty for the system's own.
        ca_text: These certificates themselves, instead of a file.
        certificate_file: PEM file of the client's certificate; empty for none.
        key_file: PEM file of its key; empty where it stands in ``certificate_file``.
        key_password: The key's password; empty for none.
        crl_file: PEM file of revoked certificates; empty for none.
        checks_certificate: Whether the broker's certificate is checked at all.
        checks_host: Whether it has to name the broker's host.
        versions: The versions of TLS that may be spoken.
    """

    ca_file: str = ""
    ca_text: str = ""
    certificate_file: str = ""
    key_file: str = ""
    key_password: str = field(default="", repr=False)
    crl_file: str = ""
    checks_certificate: bool = True
    checks_host: bool = True
    versions: tuple[str, ...] = tuple(VERSIONS)

    def context(self) -> ssl.SSLContext:
        """The context of a client's connections.

        Raises:
            TlsError: A file can't be read or used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        allowed = [VERSIONS[version] for version in self.versions]
        context.minimum_version, context.maximum_version = min(allowed), max(allowed)
        context.check_hostname = self.checks_host and self.checks_certificate
        if not self.checks_certificate:
            context.verify_mode = ssl.CERT_NONE
        self._trust(context)
        if self.certificate_file:
            self._show(context)
        if self.crl_file:
            _load_file(context, "crl_file", self.crl_file)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context

    def _trust(self, context: ssl.SSLContext) -> None:
        if self.ca_text:
            context.load_verify_locations(cadata=_certificates(self.ca_text))
        elif os.path.isdir(self.ca_file):
            context.load_verify_locations(capath=self.ca_file)
        elif self.ca_file:
            _load_file(context, "ca_file", self.ca_file)
        else:
            context.load_default_certs()

    def _show(self, context: ssl.SSLContext) -> None:
        """Loads the client's certificate and key."""
        key_role = "key_file" if self.key_file else "certificate_file"
        key_file = self.key_file or self.certificate_file
        _read(self.certificate_file, "certificate_file")
        content = _read(key_file, key_role)
        if b"PRIVATE KEY-----" not in content:
            raise TlsError(key_role, f"{key_file} holds no PEM key")
        if b"ENCRYPTED" in content and not self.key_password:
            raise TlsError(key_role, f"{key_file} is encrypted: ssl.key.password is missing")
        try:
            # Without a password here, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.certificate_file, self.key_file or None, self.key_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                why = f"{key_file} is not the key of {self.certificate_file}"
                raise TlsError(key_role, why) from None
            if b"ENCRYPTED" in content and error.reason not in ("PEM_LIB", "NO_START_LINE"):
                raise TlsError(
                    "key_password", f"is not the password of {key_file}, or the key is damaged"
                ) from None
            raise TlsError(
                "certificate_file", f"{self.certificate_file} and {key_file} can't be used together"
            ) from None


def kind_of_store(path: str) -> str:
    """The kind of a key store or trust store by its content: PEM, JKS, PKCS12 or an empty text.

    Raises:
        OSError: The file can't be read.
    """
    with open(path, "rb") as file:
        start = file.read(1 << 20)
    if b"-----BEGIN " in start:
        return "PEM"
    if start.startswith(JKS_MAGIC):
        return "JKS"
    return "PKCS12" if start.startswith(b"\x30") else ""


def _load_file(context: ssl.SSLContext, role: str, path: str) -> None:
    _read(path, role)
    kind = kind_of_store(path)
    if kind not in ("PEM", ""):
        raise TlsError(role, f"{path} is a {kind} store; PEM is needed")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise TlsError(role, f"{path} holds no PEM certificate that can be read") from None


def _read(path: str, role: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise TlsError(role, f"{path}: {error.strerror}") from None


def _certificates(text: str) -> bytes:
    """PEM certificates, their lines joined by any blanks, in the binary form."""
    blocks = PEM_CERTIFICATE.findall(text)
    try:
        found = b"".join(base64.b64decode("".join(block.split())) for block in blocks)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except (binascii.Error, ssl.SSLError, ValueError):
        raise TlsError("ca_text", "holds no PEM certificate that can be read") from None
    return found
