"""The background thread: order, errors, and a clean end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from depthrank.data.prefetch import prefetch


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "depthrank-prefetch"]


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(prefetch(iter(range(100)))) == list(range(100))
    assert not workers()


def test_an_error_surfaces_at_its_place_with_its_traceback() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("the column")

    batches = prefetch(broken())
    assert next(batches) == 1
    with pytest.raises(KeyError, match="the column") as caught:
        next(batches)
    assert any(entry.name == "broken" for entry in caught.traceback)
    assert not workers()


def test_leaving_early_ends_the_thread_even_when_it_waits_for_room() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    batches = prefetch(endless())
    assert next(batches) == 0 and workers()
    batches.close()
    assert not workers()


def test_the_next_item_is_prepared_while_the_caller_works() -> None:
    prepared = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        prepared.set()
        yield 1

    batches = prefetch(source())
    assert next(batches) == 0
    assert prepared.wait(timeout=10)  # without asking for the second item
    assert list(batches) == [1]
