"""The body of ``POST /v1/rank`` -> ``Request``: ids as strings, every mistake told at once with its path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from contextlib import suppress
from typing import Any, get_args

import msgspec
import numpy as np

from depthrank.schema.request import Limits, Mode, Priority, Request
from depthrank.schema.wire_fields import AN_ID, INT64_MAX, FieldChecks
from depthrank.schema.wire_json import Plain, check_length, decode_json

MODES: tuple[str, ...] = get_args(Mode)
PRIORITIES: tuple[str, ...] = get_args(Priority)
Column = list[Any] | np.ndarray[Any, Any]
FEW = 64
"""Up to so many candidates an array gains nothing over a list."""
CANDIDATES = 'a list of ids, columns such as {"item": [...], "price": [...]}, or "all"'


def decode_request(body: bytes, limits: Limits, *, wall_clock: bool = True) -> Request:
    """The request in ``body``; ``wall_clock`` is False where the log's times are row numbers (``time: order``).

    Raises MalformedBodyError (400), TooLargeError (413), RequestError with every wrong field (422).
    """
    return read_request(decode_json(body, limits), limits, wall_clock=wall_clock)


def check_request(request: Request, limits: Limits, *, wall_clock: bool = True) -> Request:
    """A request made in Python (columns are lists or arrays), checked as one from the wire; errors as there."""
    return read_request(msgspec.structs.asdict(request), limits, wall_clock=wall_clock)


def read_request(plain: Plain, limits: Limits, *, wall_clock: bool = True) -> Request:
    """The request that plain data describes; errors as ``decode_request``."""
    checks = FieldChecks(limits)
    checks.names(plain, Request.__struct_fields__)
    plain = {k: v.tolist() if isinstance(v, np.ndarray) and k != "candidates" else v for k, v in plain.items()}
    if "user" in plain:
        user = checks.id(plain["user"], "$.user")
    else:
        user = ""
        checks.missing("$.user", AN_ID, plain)
    if "candidates" in plain:
        candidates = _candidates(plain["candidates"], checks)
    else:
        candidates = []
        checks.missing("$.candidates", CANDIDATES, plain)
    request = Request(
        user=user,
        candidates=candidates,
        context=_context(plain.get("context"), checks),
        top=checks.integer(plain.get("top", 10), "$.top", 1, limits.max_top),
        time_ms=_time(plain.get("time_ms"), checks, wall_clock),
        deadline_ms=_deadline(plain.get("deadline_ms"), checks),
        budget=_budget(plain.get("budget"), checks),
        mode=_mode(plain.get("mode", "adaptive"), checks),
        explain=_explain(plain.get("explain", False), checks),
        priority=_priority(plain.get("priority", "normal"), checks),
    )
    checks.raise_problems("the request has wrong fields:")
    return request


def _candidates(value: Any, checks: FieldChecks) -> Any:
    if isinstance(value, (list, np.ndarray)):
        check_length(len(value), checks.limits.max_candidates, "$.candidates")
        return _ids(value, "$.candidates", checks)
    if isinstance(value, dict):
        return _candidate_columns(value, checks)
    if value != "all":
        hint = 'did you mean "all", or a list of one id?' if isinstance(value, str) else None
        checks.wrong("$.candidates", value, CANDIDATES, hint)
    return value


def _ids(column: Column, path: str, checks: FieldChecks) -> Column:
    """Ids as texts; integers of a longer list as an array, which needs no text for each."""
    if not isinstance(column, list):
        return checks.integer_ids(column, path)
    if len(column) > FEW and set(map(type, column)) == {int}:
        with suppress(OverflowError):
            return np.array(column, np.int64)
    return checks.ids(column, path)


def _values(column: Column, path: str, checks: FieldChecks) -> Column:
    return checks.values(column, path) if isinstance(column, list) else checks.numbers(column, path)


def _candidate_columns(columns: dict[str, Any], checks: FieldChecks) -> dict[str, Column]:
    if "item" not in columns:
        checks.missing("$.candidates.item", "the candidates' ids", columns)
    lists = {name: column for name, column in columns.items() if isinstance(column, (list, np.ndarray))}
    for name in [k for k in columns if k not in lists]:
        checks.wrong(f"$.candidates.{name}", columns[name], "a list with one value a candidate")
    for name, column in lists.items():
        check_length(len(column), checks.limits.max_candidates, f"$.candidates.{name}")
    equal_lengths(lists, "item", "$.candidates", checks)
    return {
        name: (_ids if name == "item" else _values)(column, f"$.candidates.{name}", checks)
        for name, column in lists.items()
    }


def equal_lengths(columns: Mapping[str, Sized], key: str, path: str, checks: FieldChecks) -> None:
    """Every column is as long as the column ``key`` (where there is one)."""
    if key not in columns:
        return
    wanted = len(columns[key])
    for name, column in columns.items():
        if len(column) != wanted:
            checks.wrong(f"{path}.{name}", column, f"{wanted} values, as in {path}.{key}")


def _context(value: Any, checks: FieldChecks) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        checks.wrong("$.context", value, 'an object of context columns, such as {"device": "ios"}')
        return {}
    return {name: checks.value(one, f"$.context.{name}") for name, one in value.items()}


def _time(value: Any, checks: FieldChecks, wall_clock: bool) -> int | None:
    return None if value is None else checks.time_ms(value, "$.time_ms", INT64_MAX, wall_clock)


def _deadline(value: Any, checks: FieldChecks) -> float | None:
    if value is not None and (type(value) not in (int, float) or not 0 < value < math.inf):
        checks.wrong("$.deadline_ms", value, "a number of milliseconds above 0")
        return None
    return value if value is None else float(value)


def _budget(value: Any, checks: FieldChecks) -> float | None:
    if value is not None and (type(value) not in (int, float) or not 0 < value <= 1):
        checks.wrong("$.budget", value, "a fraction of the full-depth cost, above 0 and at most 1")
        return None
    return value if value is None else float(value)


def _mode(value: Any, checks: FieldChecks) -> Any:
    if value not in MODES:
        checks.wrong("$.mode", value, "one of " + ", ".join(MODES))
    return value


def _priority(value: Any, checks: FieldChecks) -> Any:
    if value not in PRIORITIES:
        checks.wrong("$.priority", value, "one of " + ", ".join(PRIORITIES))
    return value


def _explain(value: Any, checks: FieldChecks) -> bool:
    if type(value) is not bool:
        checks.wrong("$.explain", value, "true or false")
    return bool(value)
