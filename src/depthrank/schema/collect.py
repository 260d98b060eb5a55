"""Plain data (from YAML or JSON) to frozen structs, collecting every mistake instead of stopping at the first.

msgspec converts the leaves; this walk adds what it does not do: all problems in one run, the nearest known name, and
durations. Wrong parts are left out of the result, so that checks between fields still see the rest; a caller must look at
``problems`` first. Supported types: msgspec Structs, ``dict[str, T]``, ``tuple[T, ...]``, ``T | None``, unions of Structs told
apart by ``kind`` or by plain-or-struct, ``Literal`` and scalars.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

import msgspec

from depthrank.errors import FieldProblem, did_you_mean
from depthrank.schema.durations import Duration

WRONG = object()  # what a conversion returns after it has noted a problem


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
    """``value`` as an instance of ``kind`` without its wrong parts, or ``WRONG``; each problem is appended with its path."""
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
    if kind is Duration:
        return _duration(value, path, problems)
    return _leaf(value, kind, path, problems)


def _wrong(path: str, value: object, expected: str, problems: list[FieldProblem], hint: str | None = None) -> Any:
    problems.append(FieldProblem(path, describe(value), expected, hint))
    return WRONG


def _leaf(value: object, kind: Any, path: str, problems: list[FieldProblem]) -> Any:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        expected = str(error).removeprefix("Expected ").split(", got")[0].split(" - at")[0].strip("`")
        return _wrong(path, value, expected, problems)


def _duration(value: object, path: str, problems: list[FieldProblem]) -> Any:
    try:
        return Duration.parse(value)
    except ValueError as error:
        return _wrong(path, value, str(error), problems)


def _literal(value: object, choices: tuple[Any, ...], path: str, problems: list[FieldProblem]) -> Any:
    if value in choices and not isinstance(value, bool):
        return value
    near = did_you_mean(value, [str(c) for c in choices]) if isinstance(value, str) else None
    hint = f"did you mean {near!r}?" if near else None
    return _wrong(path, value, "one of " + ", ".join(map(str, choices)), problems, hint)


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
    plain = [k for k in kinds if k not in structs]
    if not isinstance(value, dict) and plain:
        if len(plain) == 1:
            return convert(value, plain[0], path, problems)
        return _leaf(value, typing.Union[tuple(plain)], path, problems)  # noqa: UP007 - built at run time
    if len(structs) == 1:
        return convert(value, structs[0], path, problems)
    if structs:
        return _tagged(value, structs, path, problems)
    return convert(value, plain[0], path, problems)


def _tagged(value: object, structs: list[type[msgspec.Struct]], path: str, problems: list[FieldProblem]) -> Any:
    """One struct of several, chosen by its ``kind`` key."""
    by_tag = {str(s.__struct_config__.tag): s for s in structs}
    if not isinstance(value, dict):
        return _wrong(path, value, f"a mapping with kind: one of {', '.join(by_tag)}", problems)
    tag = value.get("kind")
    if tag not in by_tag:
        near = did_you_mean(tag, by_tag) if isinstance(tag, str) else None
        hint = f"did you mean {near!r}?" if near else None
        return _wrong(f"{path}.kind", tag, "one of " + ", ".join(by_tag), problems, hint)
    return _struct({k: v for k, v in value.items() if k != "kind"}, by_tag[tag], path, problems)


def _struct(value: object, kind: type[msgspec.Struct], path: str, problems: list[FieldProblem]) -> Any:
    if not isinstance(value, dict):
        return _wrong(path, value, "a mapping with " + ", ".join(kind.__struct_fields__), problems)
    hints = typing.get_type_hints(kind)
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    for name in value:
        if name not in fields:
            near = did_you_mean(str(name), fields)
            hint = f"did you mean {near!r}?" if near else None
            _wrong(f"{path}.{name}", name, "one of " + ", ".join(fields), problems, hint)
    converted: dict[str, Any] = {}
    for encoded, field in fields.items():
        if encoded in value:
            converted[field.name] = convert(value[encoded], hints[field.name], f"{path}.{encoded}", problems)
        elif field.required:
            _wrong(f"{path}.{encoded}", None, "a value (this field is required)", problems)
    required = {f.name for f in fields.values() if f.required}
    if any(name not in converted or converted[name] is WRONG for name in required):
        return WRONG
    converted = {k: v for k, v in converted.items() if v is not WRONG}
    try:
        return kind(**converted)
    except ValueError as error:  # raised by a struct's own __post_init__
        return _wrong(path, value, str(error), problems)
