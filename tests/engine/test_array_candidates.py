"""Candidates that come as arrays rank, are recorded and are logged as the same candidates in lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from asking import ask, shown

from depthrank.engine import Ranker
from depthrank.engine.served import served_events

NUMBERS = [5, 7, 6, 123, 7, -1]
PRICES = [2.0, 3.0, 0.5, 1.0, 4.0, 9.0]


def asked(as_arrays: bool) -> Any:
    item: Any = np.array(NUMBERS) if as_arrays else list(map(str, NUMBERS))
    price: Any = np.array(PRICES) if as_arrays else PRICES
    return ask("u1", {"item": item, "price": price}, top=4)


def test_arrays_rank_as_lists_do(make_ranker: Callable[..., Ranker]) -> None:
    ranker = make_ranker()
    ranker.upsert_items({"item": ["5", "6", "7"], "title": ["a", "b", "c"]})
    lists, arrays = ranker.rank(asked(False), record=True), ranker.rank(asked(True), record=True)
    assert shown(arrays) == shown(lists)
    assert [i.index for i in arrays.items] == [i.index for i in lists.items]
    assert len({value for _, _, value in shown(lists)}) > 1
    bare = ranker.rank(ask("u1", {"item": np.array(NUMBERS), "price": np.array(PRICES)}, mode="router"))
    assert len(bare.items) == len(NUMBERS)
    assert msgspec.msgpack.encode(arrays.record)  # what a record holds can be written


def test_what_was_shown_is_logged_alike(make_ranker: Callable[..., Ranker]) -> None:
    ranker = make_ranker()
    for top in (1, 4):
        lists, arrays = asked(False), asked(True)
        lists.top = arrays.top = top
        answer = ranker.rank(lists, request_id="r")
        logged = [served_events(ranker.spec, request, answer, 1_000) for request in (lists, arrays)]
        assert logged[0].extra == logged[1].extra
        assert logged[0].item == logged[1].item


def test_an_array_without_columns_is_a_list_of_ids(ranker: Ranker) -> None:
    some: Any = np.array(NUMBERS)
    plain = ranker.rank(ask("u1", {"item": list(map(str, NUMBERS))}))
    assert shown(ranker.rank(msgspec.structs.replace(ask("u1"), candidates=some))) == shown(plain)
