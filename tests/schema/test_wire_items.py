"""POST /v1/items bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from depthrank.errors import RequestError
from depthrank.schema import Limits
from depthrank.schema.wire import TooLargeError, decode_upsert


def decode(plain: Any, limits: Limits | None = None) -> dict[str, list[Any]]:
    return decode_upsert(json.dumps(plain).encode(), limits or Limits())


def paths_of(plain: Any) -> set[str]:
    with pytest.raises(RequestError) as caught:
        decode(plain)
    return {p.path for p in caught.value.problems}


def test_columns_come_through_with_ids_as_strings() -> None:
    assert decode({"item": [1, "b"], "price": [9.5, None]}) == {"item": ["1", "b"], "price": [9.5, None]}


def test_one_item_becomes_columns_of_one_row() -> None:
    assert decode({"item": 7, "title": "Se7en", "genres": ["crime", "drama"]}) == {
        "item": ["7"],
        "title": ["Se7en"],
        "genres": [["crime", "drama"]],
    }


def test_every_mistake_is_told_at_once() -> None:
    plain = {"item": ["a", None], "price": [1], "title": "x", "genres": [{"a": 1}, 10**30]}
    assert paths_of(plain) == {"$.title", "$.price", "$.item[1]", "$.genres[0]", "$.genres[1]"}


def test_an_upsert_without_items_is_refused() -> None:
    assert "$.item" in paths_of({"price": [1]})


def test_the_number_of_items_is_limited() -> None:
    assert decode({"item": [1, 2]}, Limits(max_items=2))
    with pytest.raises(TooLargeError):
        decode({"item": [1, 2, 3]}, Limits(max_items=2))
