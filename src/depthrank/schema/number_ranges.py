"""``f_{1..40}`` in a spec: names that differ by a number, written once.

In a list such a text stands for one text a number. In a mapping such a key stands for one entry a number, and a range
of as many numbers inside its value counts along: ``"f_{1..3}": {kind: numeric, source: "candidate.x_{11..13}"}`` are
three features. Numbers keep the width of the first: ``{01..12}``. A spec is stored written out.
"""

from __future__ import annotations

import re
from typing import Any

from depthrank.errors import FieldProblem

MAX_NAMES = 10_000
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


def write_out(plain: Any, path: str, problems: list[FieldProblem]) -> Any:
    """``plain`` data with every range written out; notes those that cannot be."""
    if isinstance(plain, list):
        parts = [write_out(part, f"{path}[{i}]", problems) for i, part in enumerate(plain)]
        return [text for i, part in enumerate(parts) for text in _texts(part, f"{path}[{i}]", problems)]
    if not isinstance(plain, dict):
        return plain
    written: dict[Any, Any] = {}
    for key, value in plain.items():
        where = f"{path}.{key}"
        numbers = _numbers(key, where, problems) if isinstance(key, str) else None
        if numbers is None:
            written[key] = write_out(value, where, problems)
            continue
        for place, number in enumerate(numbers):
            counted = _counted(value, place, len(numbers), where, problems)
            written[_RANGE.sub(number, key, count=1)] = write_out(counted, where, problems)
    return written


def _texts(part: Any, path: str, problems: list[FieldProblem]) -> list[Any]:
    numbers = _numbers(part, path, problems) if isinstance(part, str) else None
    return [part] if numbers is None else [_RANGE.sub(number, part, count=1) for number in numbers]


def _numbers(text: str, path: str, problems: list[FieldProblem]) -> list[str] | None:
    """The numbers of the range in a text; None without one, or where it is wrong, which is noted."""
    found = _RANGE.search(text)
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + MAX_NAMES:
        expected = f"{{first..last}} that counts up to at most {MAX_NAMES} names"
        problems.append(FieldProblem(path, repr(found[0]), expected))
        return None
    return [str(number).zfill(len(found[1])) for number in range(first, last + 1)]


def _counted(value: Any, place: int, length: int, path: str, problems: list[FieldProblem]) -> Any:
    """A value of the entry at ``place``: its ranges are the numbers at that place."""
    if isinstance(value, dict):
        return {k: _counted(v, place, length, f"{path}.{k}", problems) for k, v in value.items()}
    if not isinstance(value, str) or (numbers := _numbers(value, path, problems)) is None:
        return value
    if len(numbers) != length:
        if place == 0:
            problems.append(FieldProblem(path, f"{len(numbers)} numbers", f"{length}, as many as its name has"))
        return value
    return _RANGE.sub(numbers[place], value, count=1)
