"""YAML as its 1.2 core schema reads it, refusing a name given twice.

PyYAML follows YAML 1.1: ``1e-3`` is text, ``2022-04-29`` a date object, ``12:30`` the number 750, and a repeated key
silently drops the first. In a ``ranking.yaml`` each of these hides a mistake, so scalars are numbers, true/false, null
or text and nothing else, and repeated names are reported.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from depthrank.errors import FieldProblem

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+."),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", "<"),
)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2; notes repeated keys instead of keeping the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[FieldProblem] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                line = key.start_mark.line + 1
                self.problems.append(FieldProblem(f"line {line}", f"{name!r} a second time", "each name once"))
            if name is not None:
                seen.add(name)
        return super().construct_mapping(node, deep)


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """Decimal only: PyYAML would read 0123 as octal."""
    return int(loader.construct_scalar(node))


_StrictLoader.yaml_implicit_resolvers = {}  # none of SafeLoader's
for _name, _pattern, _first in _SCALARS:
    _StrictLoader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), list(_first))
_StrictLoader.add_constructor(_TAG + "int", _whole_number)


def read_yaml(text: str) -> tuple[Any, list[FieldProblem]]:
    """Plain data of one YAML document and its repeated names; raises yaml.YAMLError for what is not YAML."""
    loader = _StrictLoader(text)
    try:
        return loader.get_single_data(), loader.problems
    finally:
        loader.dispose()
