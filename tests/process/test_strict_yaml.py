"""YAML whose meaning is not that which its reader expects is refused."""

from __future__ import annotations

import pytest

from src.process.strict_yaml import YamlFileError, read_yaml_documents


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a stands twice"),
        ("a: 1\n---\nb: 1\nb: 1\n", 4, "b stands twice"),
        ("a: 1\nb: 010\n", 2, "010 is another number"),
        ("b: 1:30\n", 1, "1:30 is another number"),
        ("\n\nb: 1:30.5\n", 3, "1:30.5 is another number"),
        ("b: -0_7\n", 1, "-0_7 is another number"),
        ("b: [1, 017]\n", 1, "017 is another number"),
    ],
)
def test_it_is_named_with_its_line(text: str, line: int, named: str) -> None:
    with pytest.raises(YamlFileError, match=named) as error:
        read_yaml_documents(text)
    assert error.value.line == line


def test_everything_else_means_what_it_always_did() -> None:
    text = "a: 10\nb: 0\nc: 1.5e-3\nd: '010'\ne: [1, -2]\nf: 0.5\ng: 0x10\nh: 1:x\n---\na: 1\n"
    assert read_yaml_documents(text) == [
        {
            "a": 10,
            "b": 0,
            "c": 1.5e-3,
            "d": "010",
            "e": [1, -2],
            "f": 0.5,
            "g": 16,
            "h": "1:x",
        },
        {"a": 1},
    ]
