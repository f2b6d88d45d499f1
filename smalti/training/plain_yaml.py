"""YAML as people mean it: each key once, and only what looks like a number is one (the core schema of YAML 1.2)."""

from __future__ import annotations

import re
from typing import Any

import yaml

from smalti.errors import SmaltiError

_DEEPEST = 40  # levels of nesting
_MOST_VALUES = 20_000  # with every alias counted as what it stands for
_LONGEST_NUMBER = 400  # characters

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_SCALARS = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": _INT,
    "float": _FLOAT,
    "merge": re.compile(r"<<"),
}


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        SmaltiError: it is not YAML, gives a key twice, is nested too deeply, or grows too large by its aliases. The
            message starts with a verb, so that the caller can put the name of the text in front.

    Example:
        >>> read_yaml("{a: 1:30, b: 1e-3, c: yes, d: 010, e: null}")
        {'a': '1:30', 'b': 0.001, 'c': 'yes', 'd': 10, 'e': None}
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except SmaltiError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        # A tag such as !!bool before another kind of value raises any of these.
        raise SmaltiError(f"is not YAML: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what is wrong and where, in one short line."""
    problem = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return " ".join(problem.split())[:160] + place


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values of a node, and raise SmaltiError if they are too many or contain themselves."""
    if id(node) in known:
        return known[id(node)]
    if isinstance(node, yaml.ScalarNode):
        return 1
    known[id(node)] = _MOST_VALUES  # until it is counted: a node inside of itself has no end
    children = (
        [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    )
    known[id(node)] = total = 1 + sum(_count(child, known) for child in children)
    if total > _MOST_VALUES:
        raise SmaltiError(f"is too large: it stands for more than {_MOST_VALUES} values")
    return total


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without YAML 1.1's surprises."""

    yaml_implicit_resolvers: dict[str | None, list[Any]] = {
        None: [
            (f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{pattern.pattern})$"))
            for name, pattern in _SCALARS.items()
        ]
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise SmaltiError(f"is nested too deeply: at most {_DEEPEST} levels are allowed")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value[:80]!r} is given twice", key.start_mark
                    )
                keys.add((key.tag, key.value))
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value.lower()
        if len(text) <= _LONGEST_NUMBER:
            if text.lstrip("+-").startswith(".") and text.endswith(("inf", "nan")):
                return float(text.replace(".", ""))
            if node.tag.endswith(":float"):
                return float(text)
            return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        raise yaml.constructor.ConstructorError(None, None, "a number is too long", node.start_mark)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)
