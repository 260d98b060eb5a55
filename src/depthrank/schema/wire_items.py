"""The body of ``POST /v1/items`` -> catalogue columns: one item, or columns of many."""

from __future__ import annotations

from typing import Any

from depthrank.schema.request import Limits
from depthrank.schema.wire_fields import FieldChecks
from depthrank.schema.wire_json import check_length, decode_json
from depthrank.schema.wire_request import equal_lengths


def decode_upsert(body: bytes, limits: Limits) -> dict[str, list[Any]]:
    """Equally long columns, ``item`` (ids as strings) among them; the catalogue checks names and types of the others.

    An ``item`` that is no list means one item, whose fields are single values.
    Raises MalformedBodyError (400), TooLargeError (413), RequestError with every wrong field (422).
    """
    plain = decode_json(body, limits)
    checks = FieldChecks(limits)
    if "item" not in plain:
        checks.missing("$.item", "the ids of the items", plain)
    elif not isinstance(plain["item"], list):
        plain = {name: [value] for name, value in plain.items()}
    columns = {name: column for name, column in plain.items() if isinstance(column, list)}
    for name in [k for k in plain if k not in columns]:
        checks.wrong(f"$.{name}", plain[name], "a list with one value an item")
    check_length(len(columns.get("item", [])), limits.max_items, "$.item")
    equal_lengths(columns, "item", "$", checks)
    upsert = {
        name: checks.ids(column, "$.item") if name == "item" else checks.values(column, f"$.{name}")
        for name, column in columns.items()
    }
    checks.raise_problems("the items have wrong fields:")
    return upsert
