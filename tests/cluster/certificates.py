"""Certificates for tests: an authority, and what it has signed, as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from examples.services.common import HOST

KEY_PASSWORD = "key-secret"


@dataclass(frozen=True)
class Certificate:
    """PEM files of a certificate.

    Attributes:
        chain: The certificate.
        key: Its key.
        encrypted_key: Its key, encrypted with ``KEY_PASSWORD``.
        both: Certificate and key in one file, as a PEM key store.
    """

    chain: Path
    key: Path
    encrypted_key: Path
    both: Path


class Authority:
    """Signs certificates into a folder; ``file`` is its own certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = _builder(self._name, self._name, self._key, days=30)
        certificate = certificate.add_extension(x509.BasicConstraints(True, None), critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())))

    def sign(self, name: str, host: str = HOST, days: int = 30) -> Certificate:
        """A certificate for a host, valid for so many days from yesterday on (or until then)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.DNSName(host)]
        if host == HOST:
            names = [x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")]
        built = _builder(subject, self._name, key, days).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        files = Certificate(
            *(self._folder / f"{name}.{end}" for end in ("crt", "key", "enc", "pem"))
        )
        chain = _pem(built.sign(self._key, hashes.SHA256()))
        files.chain.write_bytes(chain)
        files.key.write_bytes(_key_bytes(key, serialization.NoEncryption()))
        encryption = serialization.BestAvailableEncryption(KEY_PASSWORD.encode())
        files.encrypted_key.write_bytes(_key_bytes(key, encryption))
        files.both.write_bytes(files.key.read_bytes() + chain)
        return files


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    begin = now - datetime.timedelta(days=1 + max(-days, 0) * 2)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_bytes(
    key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption
) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
