"""YAML without the surprises of its version 1.1: what is ambiguous is refused, with its line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_MOST_DIGITS = 400  # more than any float has; converting a million digits takes minutes


class YamlFileError(ValueError):
    """A text that is not YAML, or not what its reader expects.

    Attributes:
        line: Where, from 1; 0 if that is not known.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class YamlMapping(dict[Any, Any]):
    """A document of ``key: value`` lines.

    Attributes:
        lines: The line of each key, from 1.
    """

    def __init__(self, values: Mapping[Any, Any], lines: Mapping[Any, int]) -> None:
        super().__init__(values)
        self.lines = lines


class _StrictLoader(yaml.SafeLoader):
    # A date stays the text that it is: no setting is a date, but a topic's name may look like one.
    yaml_implicit_resolvers = {
        first: [pair for pair in pairs if not pair[0].endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem(key, "a key must be a name")
            if key.value in seen:
                raise _problem(key, f"{key.value} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        if len(text) > _MOST_DIGITS:
            raise _problem(node, f"a number of {len(text)} digits")
        if ":" in text or (_OCTAL.fullmatch(text) and text.strip("-+0")):
            raise _problem(
                node,
                f"{text} is another number in YAML: write it in decimal, or in quotes for text",
            )
        is_int = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)


for _tag in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _StrictLoader.construct_number)


def read_yaml_documents(content: str | bytes) -> list[YamlMapping]:
    """The documents of a YAML file, each a mapping; those that hold nothing are left out.

    Args:
        content: Text, or the bytes of a file in UTF-8, or in UTF-16 with its byte order mark.

    Raises:
        YamlFileError: See there.
    """
    try:
        loader = _StrictLoader(content)
        documents = []
        while loader.check_node():
            document = _mapping(loader, loader.get_node())
            if document is not None:
                documents.append(document)
        return documents
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        raise YamlFileError(mark.line + 1 if mark else 0, f"not YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        problem = f"not YAML: {error.reason} at position {error.position}"
        raise YamlFileError(_line_at(content, error.position), problem) from None
    except RecursionError:
        raise YamlFileError(0, "nested too deeply") from None
    except YamlFileError:
        raise
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, ValueError) as error:
        # A tag may claim a type that its text is not of, as in "!!int ''".
        raise YamlFileError(0, f"not YAML: {' '.join(str(error).split())}") from None


def _mapping(loader: Any, node: Any) -> YamlMapping | None:
    """A document with the lines of its keys; None if there is nothing in it."""
    values = loader.construct_document(node)
    if values is None:
        return None
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise _problem(node, "expected lines of key: value")
    lines = {loader.construct_object(key): key.start_mark.line + 1 for key, _ in node.value}
    return YamlMapping(values, lines)


def _problem(node: yaml.Node, problem: str) -> YamlFileError:
    return YamlFileError(node.start_mark.line + 1, problem)


def _line_at(content: str | bytes, position: int) -> int:
    """The line of a place in the content, from 1."""
    if isinstance(content, str):
        return content.count("\n", 0, position) + 1
    return content.count(b"\n", 0, position) + 1
