"""One connection to one broker, made step by step so that every refusal has its own line.

Name, TCP, TLS, Kafka's protocol, login: each step that fails says why, and
whether waiting may help.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from types import TracebackType
from typing import Any

from kafka.errors import KafkaError, for_code
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.broker_version_data import BrokerVersionData
from kafka.protocol.metadata import ApiVersionsRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from src.cluster.names import LookupFailed, addresses
from src.cluster.settings import ClientSettings

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 5.0
READ_BYTES = 65_536
MAX_ANSWER_BYTES = 16 << 20
NO_ERROR, UNSUPPORTED_MECHANISM, ILLEGAL_SASL_STATE = 0, 33, 34

# OpenSSL's numbers of what is wrong with a certificate.
NOT_YET_VALID, EXPIRED, REVOKED, HOST_MISMATCH, ADDRESS_MISMATCH = 9, 10, 23, 62, 64
CERTIFICATE_FAULTS = {
    NOT_YET_VALID: "is not valid yet; check both clocks",
    EXPIRED: "has expired",
    REVOKED: "is revoked",
}
UNTRUSTED = (
    "is signed by none that is trusted here: ssl.ca.location or ssl.truststore.location must name "
    "its authority"
)


class DialError(Exception):
    """A broker lets this client not in; the message is one line.

    Attributes:
        is_final: Whether trying again can't help: a login, a certificate or a protocol is wrong.
    """

    def __init__(self, reason: str, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Dialogue:
    """A connection that is ready for requests, for one thread.

    Args:
        settings: How to connect.
        host: A name or an address without brackets.
        port: The port.

    Raises:
        DialError: It can't be made.
    """

    def __init__(self, settings: ClientSettings, host: str, port: int) -> None:
        self._settings = settings
        self._host, self._port = host, port
        self.server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._socket = self._connect()
        self._protocol = self._new_protocol()
        try:
            if settings.tls is not None:
                self._start_tls(settings.tls.context())
            self._versions = self._greet()
            self._log_in()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as they were dialled."""
        return self._host, self._port

    def __enter__(self) -> Dialogue:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def ask(self, request: Any) -> Any:
        """Sends a request of kafka-python's and returns its response.

        Raises:
            DialError: No answer, or the broker has closed the connection.
            KafkaError: The broker does not know such a request.
        """
        if request.API_VERSION is None:
            request.API_VERSION = self._versions.api_version(request)
        try:
            return self._exchange(request)
        except OSError as error:
            if not self._settings.login and self._wants_login():
                raise DialError(
                    f"{self.server} wants a login, but security.protocol is "
                    f"{self._settings.protocol}, not SASL_{self._settings.protocol}",
                    is_final=True,
                ) from None
            raise DialError(f"{self.server} broke off: {_text(error)}") from None

    def _connect(self) -> socket.socket:
        reason = "it has no address"
        try:
            for family, kind, proto, _, address in addresses(self._host, self._port):
                made = socket.socket(family, kind, proto)
                made.settimeout(CONNECT_SECONDS)
                try:
                    made.connect(address)
                    made.settimeout(ANSWER_SECONDS)
                    return made
                except OSError as error:
                    made.close()
                    reason = _text(error)
        except LookupFailed as error:
            reason = str(error)
        raise DialError(f"{self.server} can't be reached: {reason}")

    def _exchange(self, request: Any) -> Any:
        """Raises OSError where the connection ends, KafkaError where the answer is no answer."""
        self._protocol.send_request(request)
        self._socket.sendall(self._protocol.send_bytes())
        while True:
            data = self._socket.recv(READ_BYTES)
            if not data:
                raise ConnectionResetError("the connection was closed")
            answers = self._protocol.receive_bytes(data)
            if answers:
                return answers[0][1]

    def _start_tls(self, context: ssl.SSLContext) -> None:
        plain = self._socket
        try:
            self._socket = context.wrap_socket(plain, server_hostname=self._host.rstrip("."))
        except ssl.SSLCertVerificationError as error:
            raise DialError(self._certificate_fault(error), is_final=True) from None
        except OSError as error:
            if self._speaks_plain():
                raise DialError(
                    f"{self.server} speaks no TLS, but security.protocol is "
                    f"{self._settings.protocol}",
                    is_final=True,
                ) from None
            is_final = isinstance(error, ssl.SSLError) and _is_alert(error)
            raise DialError(
                f"{self.server} breaks off the TLS handshake: {_text(error)}", is_final
            ) from None

    def _certificate_fault(self, error: ssl.SSLCertVerificationError) -> str:
        whose = f"the certificate of {self.server}"
        if error.verify_code in (HOST_MISMATCH, ADDRESS_MISMATCH):
            return (
                f"{whose} is for another host: use the name that it holds, or set "
                "ssl.endpoint.identification.algorithm to nothing"
            )
        return f"{whose} {CERTIFICATE_FAULTS.get(error.verify_code, UNTRUSTED)}"

    def _greet(self) -> BrokerVersionData:
        """Asks which requests the broker knows."""
        request = ApiVersionsRequest(version=0)
        request.API_VERSION = 0
        try:
            answer = self._exchange(request)
        except (OSError, KafkaError, ValueError) as error:
            if self._settings.tls is None and self._speaks_tls():
                raise DialError(
                    f"{self.server} speaks TLS, but security.protocol is {self._settings.protocol}",
                    is_final=True,
                ) from None
            if isinstance(error, ssl.SSLError) and _is_alert(error):
                raise DialError(self._client_certificate_fault(error), is_final=True) from None
            if isinstance(error, OSError):
                raise DialError(f"{self.server} gives no answer: {_text(error)}") from None
            raise DialError(
                f"{self.server} answers, but is no Kafka broker", is_final=True
            ) from None
        return BrokerVersionData(
            api_versions={
                key.api_key: (key.min_version, key.max_version) for key in answer.api_keys
            }
        )

    def _client_certificate_fault(self, error: ssl.SSLError) -> str:
        tls = self._settings.tls
        if tls is not None and not tls.certificate_file:
            return (
                f"{self.server} asks for a client's certificate: set ssl.certificate.location and "
                "ssl.key.location"
            )
        return f"{self.server} refuses this client's certificate: {_text(error)}"

    def _log_in(self) -> None:
        login = self._settings.login
        if not login:
            return
        mechanism = login["sasl_mechanism"]
        answer = self.ask(SaslHandshakeRequest(mechanism=mechanism, max_version=1))
        code = answer.error_code
        if code == ILLEGAL_SASL_STATE:
            raise DialError(
                f"{self.server} takes no login, but security.protocol is {self._settings.protocol}",
                is_final=True,
            )
        if code == UNSUPPORTED_MECHANISM:
            known = ", ".join(answer.mechanisms)
            raise DialError(
                f"{self.server} knows no sasl.mechanism={mechanism}, but {known}", is_final=True
            )
        self._exchange_tokens(get_sasl_mechanism(mechanism)(host=self._host, **login))

    def _exchange_tokens(self, mechanism: Any) -> None:
        while not mechanism.is_done():
            answer = self.ask(SaslAuthenticateRequest(mechanism.auth_bytes()))
            if answer.error_code != NO_ERROR:
                why = answer.error_message or for_code(answer.error_code).__name__
                raise DialError(
                    f"{self.server} refuses the login of {self._settings.user}: {_line(why)}",
                    is_final=True,
                )
            try:
                mechanism.receive(answer.auth_bytes)
            except ValueError as error:
                raise DialError(f"{self.server}: login failed: {error}", is_final=True) from None

    def _wants_login(self) -> bool:
        """Whether the broker, asked on a connection of its own, offers ways to log in."""
        request = SaslHandshakeRequest(mechanism="PLAIN")
        request.API_VERSION = 1
        self.close()
        try:
            self._socket = self._connect()
            if self._settings.tls is not None:
                self._start_tls(self._settings.tls.context())
            self._protocol = self._new_protocol()
            return self._exchange(request).error_code in (NO_ERROR, UNSUPPORTED_MECHANISM)
        except (OSError, DialError, KafkaError):
            return False

    def _new_protocol(self) -> KafkaProtocol:
        return KafkaProtocol(
            client_id=self._settings.client_id, receive_message_max_bytes=MAX_ANSWER_BYTES
        )

    def _speaks_plain(self) -> bool:
        """Whether the port understands Kafka's protocol without TLS."""
        with contextlib.suppress(OSError, KafkaError, ValueError), self._connect() as plain:
            request = ApiVersionsRequest(version=0)
            request.API_VERSION = 0
            protocol = self._new_protocol()
            protocol.send_request(request)
            plain.sendall(protocol.send_bytes())
            return bool(protocol.receive_bytes(plain.recv(READ_BYTES)))
        return False

    def _speaks_tls(self) -> bool:
        """Whether the port answers a TLS handshake, be it with a refusal."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with self._connect() as plain, context.wrap_socket(plain):
                return True
        except ssl.SSLError as error:
            return _is_alert(error)
        except (OSError, DialError):
            return False


def _is_alert(error: ssl.SSLError) -> bool:
    """Whether the other side has said, in TLS, why it refuses."""
    return "ALERT" in (error.reason or "")


def _text(error: Exception) -> str:
    """An error without Python's additions."""
    if isinstance(error, socket.timeout):
        return "timed out"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return _line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _line(text: str) -> str:
    return " ".join(text.split())
