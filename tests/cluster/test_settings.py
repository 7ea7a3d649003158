"""What a client.properties file gives, and how it is refused."""

from __future__ import annotations

import pickle
import ssl
from pathlib import Path
from typing import Any, Callable

import pytest

from src.cluster.broker_list import ClusterConfigError
from src.cluster.properties.jaas import PLAIN_MODULE, SCRAM_MODULE
from src.cluster.settings import ClientSettings, client_settings
from src.config import read_defaults
from tests.cluster.certificates import KEY_PASSWORD, Authority, Certificate

DEFAULT = read_defaults().values["bootstrap_servers"]
SASL = "security.protocol=SASL_PLAINTEXT\n"
LOGIN = SASL + "sasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=secret\n"

Read = Callable[..., ClientSettings]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a file with this text, which only its owner may read."""

    def read(text: str | bytes, servers: str = DEFAULT) -> ClientSettings:
        path = tmp_path / "client.properties"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o600)
        return client_settings(servers, str(path))

    return read


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Certificate:
    return authority.sign("client")


def login_of(settings: ClientSettings) -> tuple[Any, ...]:
    options = settings.client_options()
    names = ("security_protocol", "sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
    return tuple(options.get(name) for name in names)


@pytest.mark.parametrize(
    ("text", "login"),
    [
        (LOGIN, ("SASL_PLAINTEXT", "PLAIN", "u", "secret")),
        (LOGIN.replace("mechanism=", "mechanisms: "), ("SASL_PLAINTEXT", "PLAIN", "u", "secret")),
        (
            "security.protocol=sasl_plaintext\nsasl.mechanism=scram-sha-512\n"
            "sasl.username=a,b=c\nsasl.password = two words \n",
            ("SASL_PLAINTEXT", "SCRAM-SHA-512", "a=2Cb=3Dc", "two words"),
        ),
        (
            SASL
            + f'sasl.jaas.config={PLAIN_MODULE} required \\\n  username="u" password="a\\\\"b";',
            ("SASL_PLAINTEXT", "PLAIN", "u", 'a"b'),
        ),
        (
            SASL + f'sasl.jaas.config={PLAIN_MODULE} required username="u" password="a\\"b";',
            ("SASL_PLAINTEXT", "PLAIN", "u", 'a"b'),
        ),
        (
            SASL + "sasl.mechanism=SCRAM-SHA-256\n"
            f'sasl.jaas.config={SCRAM_MODULE} required password="${{SECRET}}" username="u";',
            ("SASL_PLAINTEXT", "SCRAM-SHA-256", "u", "q\"uo'te;"),
        ),
        (SASL + "sasl.jaas.config=${JAAS}\n", ("SASL_PLAINTEXT", "PLAIN", "u", "p")),
        (LOGIN.replace("=secret", "=${env:SECRET}"), ("SASL_PLAINTEXT", "PLAIN", "u", "q\"uo'te;")),
        ("security.protocol=PLAINTEXT", ("PLAINTEXT", None, None, None)),
        ("", ("PLAINTEXT", None, None, None)),
    ],
)
def test_a_login_is_read_as_both_kinds_of_clients_spell_it(
    text: str, login: tuple[Any, ...], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "q\"uo'te;")
    monkeypatch.setenv("JAAS", f'{PLAIN_MODULE} required username="u" password="p";')
    assert login_of(read(text)) == login


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LOGIN + "sasl.pasword=x", "line 5: sasl.pasword: not known; did you mean sasl.password"),
        (
            LOGIN + "security_protocol=x",
            "security_protocol: not known; did you mean security.p",
        ),
        (LOGIN + "nonsense=x", "line 5: nonsense: not known"),
        (LOGIN + "sasl.username=u", "line 5: sasl.username: stands twice, first in line 3"),
        (LOGIN + "sasl.mechanisms=SCRAM-SHA-256", "sasl.mechanisms: differs from sasl.mechanism"),
        (LOGIN.replace("PLAIN\n", "GSSAPI\n"), "'GSSAPI' is not supported; expected PLAIN, SCRAM"),
        (LOGIN.replace("PLAIN\n", "OAUTHBEARER\n"), "'OAUTHBEARER' is not supported"),
        (LOGIN.replace("SASL_PLAINTEXT", "TLS"), "line 1: security.protocol: 'TLS' is not supp"),
        (
            LOGIN.replace("SASL_PLAINTEXT", '"SASL_SSL"'),
            "is not supported; expected PLAINTEXT",
        ),
        (LOGIN.replace(SASL, ""), "sasl.mechanism: is set, but security.protocol is not"),
        (LOGIN.replace(SASL, "security.protocol=SSL\n"), "is set, but security.protocol is SSL"),
        (LOGIN.replace("sasl.password=secret", ""), "sasl.password is missing or empty"),
        (LOGIN.replace("=secret", "="), "line 4: sasl.password: is empty"),
        (LOGIN.replace("=secret", "=${NOT_SET_X}"), "line 4: .*variable NOT_SET_X is not set"),
        (LOGIN.replace("sasl.mechanism=PLAIN\n", ""), "sasl.mechanism is missing"),
        (SASL, "sasl.mechanism is missing"),
        (
            LOGIN + f'sasl.jaas.config={PLAIN_MODULE} required username="u" password="other";',
            "sasl.password: differs from sasl.jaas.config in line 5",
        ),
        (
            LOGIN + f'sasl.jaas.config={SCRAM_MODULE} required username="u" password="secret";',
            "its module does not fit sasl.mechanism=PLAIN",
        ),
        (LOGIN + "sasl.jaas.config=org.x.Other required;", "org.x.Other is not supported"),
        (LOGIN + "=secret", "line 5: has no key"),
        (LOGIN + "x=\\u00zz", "line 5: has a .u without"),
        (LOGIN.encode() + b"client.id=\xe9", "line 5: not UTF-8"),
        (LOGIN + "metadata.max.age.ms=soon", "line 5: metadata.max.age.ms: expected milliseconds"),
        (LOGIN + "bootstrap.servers=a:1;b:2", "line 5: bootstrap.servers: .*separate them by comm"),
        (LOGIN + "ssl.keystore.key=x", "write it into a PEM file, named by ssl.key.location"),
        (LOGIN + "ssl.cipher.suites=x", "ssl.cipher.suites: is not supported"),
    ],
)
def test_what_can_not_be_used_is_named_with_its_line_and_without_secrets(
    text: str | bytes, reason: str, read: Read
) -> None:
    with pytest.raises(ClusterConfigError, match=reason) as caught:
        read(text)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ClusterConfigError, match=str(path)):
            client_settings(DEFAULT, str(path))


def test_no_text_of_the_settings_holds_a_secret_and_they_travel_to_a_child(
    read: Read, client: Certificate
) -> None:
    tls = f"ssl.keystore.location={client.both}\nssl.key.password=secret\n"
    settings = read(LOGIN.replace("SASL_PLAINTEXT", "SASL_SSL") + tls)
    assert "secret" not in f"{settings} {settings!r} {settings.tls!r}"
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_settings_of_other_clients_are_named_and_not_used(read: Read) -> None:
    settings = read(
        LOGIN + "acks=1\ngroup.id=g\nschema.registry.url=http://x\nsession.timeout.ms=4"
    )
    (note,) = settings.notes
    assert "acks, group.id, schema.registry.url, session.timeout.ms: not used" in note


def test_a_password_that_others_can_read_is_worth_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    for text, notes in ((LOGIN, 1), (LOGIN.replace("=secret", "=${HOME}"), 0)):
        path.write_text(text)
        path.chmod(0o644)
        assert len(client_settings(DEFAULT, str(path)).notes) == notes


def test_a_broker_list_that_is_not_the_default_counts(read: Read) -> None:
    assert read("bootstrap.servers=a:1, b:2").servers == ("a:1", "b:2")
    assert read("metadata.broker.list=a:1").servers == ("a:1",)
    settings = read("bootstrap.servers=a:1", "c:3")
    assert settings.servers == ("c:3",)
    assert "--bootstrap_servers=c:3 counts" in settings.notes[0]
    assert read("bootstrap.servers=c:3", "c:3").notes == ()


def test_names_and_times_reach_the_clients(read: Read) -> None:
    settings = read("client.id=trainer\nclient.rack=a\nmetadata.max.age.ms=1000\n")
    options = settings.consumer_options()
    assert (options["client_id"], options["client_rack"]) == ("trainer", "a")
    assert options["metadata_max_age_ms"] == 1000
    assert "client_rack" not in settings.client_options()


TLS = "security.protocol=SSL\n"


def context_of(settings: ClientSettings) -> ssl.SSLContext:
    context = settings.client_options()["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    return context


@pytest.mark.parametrize(
    "line",
    [
        "ssl.ca.location={ca}",
        "ssl.truststore.location={ca}\nssl.truststore.type=PEM",
        "ssl.truststore.location={ca}",
        "ssl.truststore.certificates={text}",
        "ssl.ca.pem={text}",
    ],
)
def test_an_authority_is_trusted_from_a_file_or_a_text(
    line: str, read: Read, authority: Authority
) -> None:
    pem = authority.file.read_text()
    settings = read(TLS + line.format(ca=authority.file, text=pem.replace("\n", "\\n")))
    (trusted,) = context_of(settings).get_ca_certs()
    assert trusted["subject"] == ((("commonName", "authority"),),)
    assert context_of(settings).check_hostname


def test_checks_are_relaxed_by_name_only(read: Read) -> None:
    for value in ("", "none"):
        relaxed = context_of(read(TLS + f"ssl.endpoint.identification.algorithm={value}"))
        assert not relaxed.check_hostname
        assert relaxed.verify_mode is ssl.CERT_REQUIRED
    assert context_of(read(TLS + "ssl.endpoint.identification.algorithm=https")).check_hostname
    unchecked = read(TLS + "enable.ssl.certificate.verification=false")
    assert context_of(unchecked).verify_mode is ssl.CERT_NONE
    assert "the broker's certificate is not checked" in unchecked.notes[0]


def test_versions_of_tls(read: Read) -> None:
    newest = context_of(read(TLS + "ssl.enabled.protocols=TLSv1.3\nssl.protocol=TLSv1.3"))
    assert newest.minimum_version is ssl.TLSVersion.TLSv1_3
    default = context_of(read(TLS))
    assert default.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(ClusterConfigError, match="TLSv1.2 or TLSv1.3"):
        read(TLS + "ssl.enabled.protocols=TLSv1")


def test_a_clients_certificate_is_loaded(read: Read, client: Certificate) -> None:
    for lines in (
        f"ssl.certificate.location={client.chain}\nssl.key.location={client.key}",
        f"ssl.certificate.location={client.chain}\nssl.key.location={client.encrypted_key}\n"
        f"ssl.key.password={KEY_PASSWORD}",
        f"ssl.keystore.location={client.both}\nssl.keystore.type=PEM",
        f"ssl.certificate.location={client.both}",
    ):
        context_of(read(TLS + lines))


def test_files_that_can_not_be_used_are_named(
    read: Read, authority: Authority, client: Certificate, tmp_path: Path
) -> None:
    jks, p12, empty = (tmp_path / name for name in ("a.jks", "a.p12", "empty.pem"))
    jks.write_bytes(b"\xfe\xed\xfe\xed\x00")
    p12.write_bytes(b"\x30\x82\x00")
    empty.write_bytes(b"")
    other = authority.sign("other")
    own = f"ssl.certificate.location={client.chain}\n"
    for lines, reason in (
        (f"ssl.ca.location={tmp_path}/absent", "line 2: ssl.ca.location: .*absent: No such file"),
        (f"ssl.ca.location={empty}", "empty.pem holds no PEM certificate"),
        (f"ssl.ca.location={client.key}", "holds no PEM certificate"),
        (f"ssl.ca.location={jks}", "is a JKS store"),
        (f"ssl.truststore.location={jks}", "is no PEM file but JKS; convert it: keytool -list"),
        (f"ssl.truststore.location={p12}", "but PKCS12; convert it: keytool -list"),
        (f"ssl.keystore.location={p12}\nssl.keystore.password=x", "openssl pkcs12"),
        ("ssl.truststore.certificates=nonsense", "ssl.truststore.certificates: holds no PEM"),
        (own, "client.crt holds no PEM key"),
        (f"ssl.key.location={client.key}", "needs ssl.certificate.location too"),
        (own + f"ssl.key.location={client.encrypted_key}", "ssl.key.password is missing"),
        (
            own + f"ssl.key.location={client.encrypted_key}\nssl.key.password=secret",
            "ssl.key.password: is not the password",
        ),
        (own + f"ssl.key.location={other.key}", "other.key is not the key of .*client.crt"),
        (own + f"ssl.key.location={tmp_path}/absent", "absent: No such file"),
    ):
        with pytest.raises(ClusterConfigError, match=reason) as caught:
            read(TLS + lines)
        assert "secret" not in str(caught.value), lines
        assert "\n" not in str(caught.value)


def test_files_for_tls_without_tls_are_worth_a_note(read: Read) -> None:
    settings = read("security.protocol=PLAINTEXT\nssl.endpoint.identification.algorithm=\n")
    assert "ssl.endpoint.identification.algorithm: not used" in settings.notes[0]
    assert settings.tls is None


@pytest.mark.parametrize("key", ["client.id", "client.rack"])
def test_names_that_would_break_a_brokers_log_are_refused(read: Read, key: str) -> None:
    with pytest.raises(ClusterConfigError, match=rf"line 1: {key}: 'a\\nb' holds a control char"):
        read(f"{key}=a\\nb\n")


def test_quotation_marks_are_part_of_a_value_and_said_to_be(read: Read) -> None:
    lines = "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=u\n"
    settings = read(f'{lines}sasl.password="p"\n')
    assert settings.login["sasl_plain_password"] == '"p"'
    assert any("line 4: sasl.password: its quotation marks" in note for note in settings.notes)
