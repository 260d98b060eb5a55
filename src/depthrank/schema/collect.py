"""Plain data (from YAML or JSON) to frozen structs, collecting every mistake instead of stopping at the first.

msgspec converts the leaves; this walk adds what it does not do: all problems in one run, the nearest known name, and
durations and sizes. Wrong parts are left out of the result, so that checks between fields still see the rest; a caller
must look at ``problems`` first. Supported types: msgspec Structs, ``dict[str, T]``, ``tuple[T, ...]``, ``T | None``,
unions of Structs told apart by ``kind`` or by plain-or-struct, of a list and a scalar, ``Literal`` and scalars.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Collection, Iterable
from typing import Any, Literal

import msgspec

from depthrank.errors import FieldProblem, did_you_mean
from depthrank.schema.byte_size import ByteSize
from depthrank.schema.durations import Duration

WRONG = object()  # what a conversion returns after it has noted a problem

_WORDS = {"`int`": "a whole number", "`float`": "a number", "`str`": "text", "`bool`": "true or false"}


def describe(value: object) -> str:
    """The value as a person would name it in an error, cut short."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a mapping with {len(value)} keys"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def convert(value: object, kind: Any, path: str, problems: list[FieldProblem]) -> Any:
    """``value`` as a ``kind`` without its wrong parts, or ``WRONG``; each problem is appended with its path."""
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _union(value, typing.get_args(kind), path, problems)
    if origin is Literal:
        return _literal(value, typing.get_args(kind), path, problems)
    if origin is dict:
        return _mapping(value, typing.get_args(kind)[1], path, problems)
    if origin is tuple:
        return _sequence(value, typing.get_args(kind)[0], path, problems)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct(value, kind, path, problems)
    if kind in (Duration, ByteSize):
        return _parsed(value, kind, path, problems)
    return _leaf(value, kind, path, problems)


def _nearest(value: object, known: Iterable[str]) -> str | None:
    near = did_you_mean(value, known) if isinstance(value, str) else None
    return f"did you mean {near!r}?" if near else None


def _wrong(path: str, value: object, expected: str, problems: list[FieldProblem], hint: str | None = None) -> Any:
    problems.append(FieldProblem(path, describe(value), expected, hint))
    return WRONG


def _leaf(value: object, kind: Any, path: str, problems: list[FieldProblem]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return _wrong(path, value, "a finite number", problems)
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        expected = str(error).removeprefix("Expected ").split(", got")[0].split(" - at")[0]
        for name, words in _WORDS.items():
            expected = expected.replace(name, words)
        return _wrong(path, value, expected, problems)


def _parsed(value: object, kind: Any, path: str, problems: list[FieldProblem]) -> Any:
    """A text with a unit."""
    try:
        return kind.parse(value)
    except ValueError as error:
        return _wrong(path, value, str(error), problems)


def _literal(value: object, choices: tuple[Any, ...], path: str, problems: list[FieldProblem]) -> Any:
    if value in choices and not isinstance(value, bool):
        return value
    known = [str(c) for c in choices]
    expected = "one of " + ", ".join(known) if len(known) > 1 else known[0]
    return _wrong(path, value, expected, problems, _nearest(value, known))


def _mapping(value: object, item: Any, path: str, problems: list[FieldProblem]) -> Any:
    if not isinstance(value, dict):
        return _wrong(path, value, "a mapping of names to values", problems)
    converted = {str(k): convert(v, item, f"{path}.{k}", problems) for k, v in value.items()}
    return {k: v for k, v in converted.items() if v is not WRONG}


def _sequence(value: object, item: Any, path: str, problems: list[FieldProblem]) -> Any:
    if not isinstance(value, (list, tuple)):
        return _wrong(path, value, "a list", problems)
    converted = tuple(convert(v, item, f"{path}[{i}]", problems) for i, v in enumerate(value))
    return tuple(v for v in converted if v is not WRONG)


def _union(value: object, kinds: tuple[Any, ...], path: str, problems: list[FieldProblem]) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(k for k in kinds if k is not type(None))
    structs = [k for k in kinds if isinstance(k, type) and issubclass(k, msgspec.Struct)]
    lists = [k for k in kinds if typing.get_origin(k) is tuple]
    plain = [k for k in kinds if k not in structs and k not in lists]
    if lists and (isinstance(value, (list, tuple)) or not plain):
        return convert(value, lists[0], path, problems)
    if not isinstance(value, dict) and plain:
        assert len(plain) == 1, "two scalar kinds cannot be told apart"
        return _plain_or_struct(value, plain[0], structs, path, problems)
    if len(structs) == 1:
        return convert(value, structs[0], path, problems)
    if structs:
        return _tagged(value, structs, path, problems)
    return convert(value, plain[0], path, problems)


def _plain_or_struct(value: object, plain: Any, structs: list[Any], path: str, problems: list[FieldProblem]) -> Any:
    """The scalar of a union; where it is wrong, the message names the mapping that would do as well."""
    mine: list[FieldProblem] = []
    converted = convert(value, plain, path, mine)
    for problem in mine:
        forms = [f"a mapping with {', '.join(s.__struct_fields__)}" for s in structs]
        expected = ", or ".join([problem.expected, *forms])
        problems.append(FieldProblem(problem.path, problem.found, expected, problem.hint))
    return converted


def _tagged(value: object, structs: list[type[msgspec.Struct]], path: str, problems: list[FieldProblem]) -> Any:
    """One struct of several, chosen by its ``kind`` key."""
    by_tag = {str(s.__struct_config__.tag): s for s in structs}
    if not isinstance(value, dict):
        return _wrong(path, value, f"a mapping with kind: one of {', '.join(by_tag)}", problems)
    tag = value.get("kind")
    if not isinstance(tag, str) or tag not in by_tag:
        return _wrong(f"{path}.kind", tag, "one of " + ", ".join(by_tag), problems, _nearest(tag, by_tag))
    return _struct({k: v for k, v in value.items() if k != "kind"}, by_tag[tag], path, problems)


def _struct(value: object, kind: type[msgspec.Struct], path: str, problems: list[FieldProblem]) -> Any:
    if not isinstance(value, dict):
        return _wrong(path, value, "a mapping with " + ", ".join(kind.__struct_fields__), problems)
    parts = convert_fields(value, kind, path, problems)
    if any(f.required and f.name not in parts for f in msgspec.structs.fields(kind)):
        return WRONG
    try:
        return kind(**parts)
    except ValueError as error:  # raised by a struct's own __post_init__
        return _wrong(path, value, str(error), problems)


def convert_fields(
    value: dict[Any, Any],
    kind: type[msgspec.Struct],
    path: str,
    problems: list[FieldProblem],
    hidden: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The good fields of a struct by name; unknown, missing and wrong ones become problems.

    ``hidden`` fields are accepted, and left out when the known names are listed.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    known = [name for name in fields if name not in hidden]
    misspelt = _unknown_names({k: v for k, v in value.items() if k not in hidden}, known, path, problems)
    parts: dict[str, Any] = {}
    for encoded, field in fields.items():
        if encoded in value:
            parts[field.name] = convert(value[encoded], hints[field.name], f"{path}.{encoded}", problems)
        elif field.required and encoded not in misspelt:
            _wrong(f"{path}.{encoded}", None, "a value (this field is required)", problems)
    return {name: part for name, part in parts.items() if part is not WRONG}


def _unknown_names(value: dict[Any, Any], known: Collection[str], path: str, problems: list[FieldProblem]) -> set[str]:
    """Report the names that are no field; returns the fields they were probably meant to be."""
    meant: set[str] = set()
    for name in value:
        if name not in known:
            near = did_you_mean(str(name), (f for f in known if f not in value))
            meant |= {near} if near else set()
            hint = f"did you mean {near!r}?" if near else None
            _wrong(f"{path}.{name}", name, "one of " + ", ".join(known), problems, hint)
    return meant
