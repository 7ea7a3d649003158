"""YAML without the surprises of its version 1.1: what is ambiguous is refused, with its line."""

from __future__ import annotations

import re
from typing import Any

import yaml

_OCTAL = re.compile(r"[-+]?0[0-9_]+")


class AmbiguousYamlError(ValueError):
    """A key stands twice, or a number means something else than its reader expects.

    Attributes:
        line: Where, from 1.
    """

    def __init__(self, node: yaml.Node, problem: str) -> None:
        super().__init__(problem)
        self.line = node.start_mark.line + 1


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise AmbiguousYamlError(key, f"{key.value} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        if ":" in text or (_OCTAL.fullmatch(text) and text.strip("-+0")):
            raise AmbiguousYamlError(
                node,
                f"{text} is another number in YAML: write it in decimal, or in quotes for text",
            )
        is_int = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)


for _tag in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _StrictLoader.construct_number)


def read_yaml_documents(text: str) -> list[Any]:
    """The documents of a YAML text.

    Raises:
        AmbiguousYamlError: See there.
        yaml.YAMLError: The text is not YAML.
    """
    return list(yaml.load_all(text, _StrictLoader))
