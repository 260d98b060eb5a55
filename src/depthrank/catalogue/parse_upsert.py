"""Values of an upsert, checked against the kind of the column they go to; every wrong value is noted with its path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue.columns import Column, VectorColumn
from depthrank.catalogue.shown import shown
from depthrank.catalogue.text_of import text_of, texts_of
from depthrank.errors import FieldProblem

MAX_PROBLEMS = 20
_EXPECTED = {
    "number": "a number or null",
    "text": "a text, a number or null",
    "list": "a list of texts or numbers, or null",
}


@dataclass(frozen=True)
class ParsedNumbers:
    """``values`` int64 or float64; 0 where ``missing``."""

    values: NDArray[Any]
    missing: NDArray[np.bool_]


@dataclass(frozen=True)
class ParsedVectors:
    """``values`` float32 [n, D]; zeros where ``missing``."""

    values: NDArray[np.float32]
    missing: NDArray[np.bool_]


@dataclass(frozen=True)
class ParsedTexts:
    """One text a row, None where missing."""

    texts: list[str | None]


@dataclass(frozen=True)
class ParsedLists:
    """The texts of each row."""

    lists: list[list[str]]


Parsed = ParsedNumbers | ParsedTexts | ParsedLists | ParsedVectors


def parse_ids(values: Sequence[object], path: str, problems: list[FieldProblem]) -> list[str]:
    """Ids as text; a null, a boolean or a non-scalar is a problem."""
    if set(map(type, values)) <= {str, int}:
        texts = texts_of(values)
        return [text for text in texts if text is not None]
    ids: list[str] = []
    for i, value in enumerate(values):
        wrong = isinstance(value, (bool, float, np.bool_, np.floating))
        text = None if wrong else _attempt(text_of, value)
        if not isinstance(text, str):
            _note(problems, f"{path}[{i}]", value, "an id (a text or an integer)")
        ids.append(text if isinstance(text, str) else "")
    return ids


def parse_values(column: Column, values: Sequence[object], path: str, problems: list[FieldProblem]) -> Parsed | None:
    """``values`` in the form of ``column``; None where problems were noted."""
    before = len(problems)
    size = column.values.shape[1] if isinstance(column, VectorColumn) else 0
    one = {"number": _number, "text": text_of, "list": _texts, "vector": lambda v: _vector(v, size)}[column.kind]
    expected = _EXPECTED.get(column.kind, f"a list of {size} numbers, or null")
    parsed: list[Any] = [_attempt(one, v) for v in values]
    for i, value in enumerate(parsed):
        if isinstance(value, _Wrong):
            _note(problems, f"{path}[{i}]", values[i], expected)
    if len(problems) > before:
        return None
    if column.kind == "text":
        return ParsedTexts(parsed)
    if column.kind == "list":
        return ParsedLists([v or [] for v in parsed])
    missing = np.array([v is None for v in parsed], np.bool_)
    if column.kind == "vector":
        zero = np.zeros(size, np.float32)
        return ParsedVectors(
            np.array([zero if v is None else v for v in parsed], np.float32).reshape(-1, size), missing
        )
    filled = [0 if v is None else v for v in parsed]
    whole = all(isinstance(v, int) and -(2**63) <= v < 2**63 for v in filled)
    return ParsedNumbers(np.array(filled, np.int64 if whole else np.float64), missing)


class _Wrong:
    """Marks a value that could not be parsed."""


def _attempt(one: Callable[[Any], Any], value: object) -> Any:
    try:
        return one(value)
    except (TypeError, ValueError):
        return _Wrong()


def _number(value: object) -> int | float | None:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value != value:
        return None
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else _as_float(value)
    if isinstance(value, float):
        return value
    raise TypeError


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, (str, bytes, dict)):
        raise TypeError
    return [text for text in map(text_of, value) if text is not None]


def _vector(value: Any, size: int) -> NDArray[np.float32] | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes, dict)) or len(value) != size:
        raise TypeError
    numbers = [_number(v) for v in value]
    with np.errstate(over="ignore"):
        return np.array([np.nan if v is None else v for v in numbers], np.float64).astype(np.float32)


def _note(problems: list[FieldProblem], path: str, value: object, expected: str) -> None:
    if len(problems) < MAX_PROBLEMS:
        problems.append(FieldProblem(path, shown(value), expected))
