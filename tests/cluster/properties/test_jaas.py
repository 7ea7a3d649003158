from __future__ import annotations

import pytest

from src.cluster.properties.jaas import PLAIN_MODULE, SCRAM_MODULE, parse_jaas


@pytest.mark.parametrize(
    ("text", "password"),
    [
        (f'{PLAIN_MODULE} required username="u" password="p";', "p"),
        (f"{PLAIN_MODULE} required password='p q' username=u;", "p q"),
        (f'  {SCRAM_MODULE}  REQUIRED\n username="u"\n password="a\\"b\\\\c;d" ;  ', 'a"b\\c;d'),
        (f'{PLAIN_MODULE} required username = "u" password = \'it"s\' other="x";', 'it"s'),
        (f"{SCRAM_MODULE} sufficient username=u password=$x!y=z;", "$x!y=z"),
    ],
)
def test_user_and_password_in_any_order_and_quotes(text: str, password: str) -> None:
    login = parse_jaas(text)
    assert (login.username, login.password) == ("u", password)
    assert repr(login).count("password") == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f'{PLAIN_MODULE} required username="u" password="p"', "end with a semicolon"),
        (f'{PLAIN_MODULE} required username="u" password="secret;', "can't be read"),
        (f'{PLAIN_MODULE} required username="u" password="sec"ret";', "can't be read"),
        (f'{PLAIN_MODULE} required username="u" password="p"; x', "behind its semicolon"),
        (f'{PLAIN_MODULE} username="u" password="p";', "expected MODULE required"),
        (f'{PLAIN_MODULE} required username="u";', "has no password"),
        (f'{PLAIN_MODULE} required password="p";', "has no username"),
        (f'{PLAIN_MODULE} required username="u" username="v" password="p";', "stands twice"),
        ("com.sun.security.auth.module.Krb5LoginModule required x=y;", "Krb5LoginModule is not"),
        ("", "end with a semicolon"),
    ],
)
def test_another_form_is_refused_without_its_values(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_jaas(text)
    assert "sec" not in str(caught.value).replace("com.sun.security", "")
