from __future__ import annotations

import pytest

from src.cluster.properties.syntax import PropertiesError, expanded, parse_properties


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a=b", [("a", "b", 1)]),
        ("\ufeffa = b\r\n\r\nc:d\r\n", [("a", "b", 1), ("c", "d", 3)]),
        ("# no=1\n ! no=2 \\\na b", [("a", "b", 3)]),
        ("a = b \\\n    c\\\n\td\ne=f", [("a", "b cd", 1), ("e", "f", 4)]),
        ("a=b\\\\\nc=d", [("a", "b\\", 1), ("c", "d", 2)]),
        ("a\\ b\\=c=d\\u00e9\\tx\\q", [("a b=c", "dé\txq", 1)]),
        ("a==b:c", [("a", "=b:c", 1)]),
        ("a\nb=", [("a", "", 1), ("b", "", 2)]),
        ("a=b\\", [("a", "b", 1)]),
        ("a = b # c ", [("a", "b # c", 1)]),
        ("a=\\ud83d\\ude00", [("a", "\U0001f600", 1)]),
        ("", []),
        ("\n\n#", []),
    ],
)
def test_java_would_read_the_same(text: str, pairs: list[tuple[str, str, int]]) -> None:
    assert [(each.key, each.value, each.line) for each in parse_properties(text)] == pairs


@pytest.mark.parametrize(
    ("text", "line"), [("a=1\n=b", 2), ("a=\\u00g0", 1), ("a=1\n\nb=\\u12", 3), ("a=\\ud83d", 1)]
)
def test_a_line_that_can_not_be_read_is_numbered(text: str, line: int) -> None:
    with pytest.raises(PropertiesError) as caught:
        parse_properties(text)
    assert caught.value.line == line


def test_no_repr_holds_a_value() -> None:
    (entry,) = parse_properties("sasl.password=secret")
    assert "secret" not in repr(entry)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "1"),
        ("x${A}y${B_2}", "x1y${A}"),
        ("$${A}", "${A}"),
        ("$A $", "$A $"),
        ("${env:A}", "1"),
        ("$${A", "${A"),
    ],
)
def test_variables_are_replaced_once(text: str, value: str) -> None:
    assert expanded(text, {"A": "1", "B_2": "${A}"}) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${C}", "variable C is not set"),
        ("${file:/x:y}", "file:/x:y"),
        ("${}", "is no"),
        ("a${C", "has no }"),
    ],
)
def test_a_variable_that_is_not_set_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        expanded(text, {})
