"""MessagePack and Arrow bodies mean what the JSON means, stay columns, and hostile ones are a 4xx."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import RequestError
from depthrank.schema import Limits, Request
from depthrank.schema.request import Answer, Degraded, RankedItem, Spent
from depthrank.schema.wire import (
    MalformedBodyError,
    TooLargeError,
    decode_arrow,
    decode_msgpack,
    decode_request,
    encode_answer,
    encode_answer_msgpack,
    read_request,
)

LIMITS = Limits()
Ext = msgspec.msgpack.Ext


def msgpack(plain: object, limits: Limits = LIMITS) -> Request:
    return read_request(decode_msgpack(msgspec.msgpack.encode(plain), limits), limits)


def stream(
    columns: dict[str, Any], beside: object, options: pa.ipc.IpcWriteOptions | None = None, parts: int = 1
) -> bytes:
    table = pa.table(columns).replace_schema_metadata({"depthrank": json.dumps(beside)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=max(1, -(-table.num_rows // parts)))
    return sink.getvalue().to_pybytes()


def arrow(columns: dict[str, Any], beside: object = None, limits: Limits = LIMITS, **options: Any) -> Request:
    beside = {"user": "u"} if beside is None else beside
    return read_request(decode_arrow(stream(columns, beside, **options), limits), limits)


def paths(error: RequestError) -> list[str]:
    return [p.path for p in error.problems]


scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = scalars | st.text(max_size=5) | st.lists(scalars, max_size=3)
requests = st.fixed_dictionaries(
    {
        "user": st.text(min_size=1, max_size=5) | st.integers(-(2**63), 2**63 - 1),
        "candidates": st.just("all")
        | st.lists(st.text(min_size=1, max_size=5) | st.integers(-(2**63), 2**63 - 1), max_size=5)
        | st.integers(0, 4).flatmap(
            lambda n: st.fixed_dictionaries(
                {
                    "item": st.lists(st.integers(0, 99), min_size=n, max_size=n),
                    "x": st.lists(values, min_size=n, max_size=n),
                }
            )
        ),
    },
    optional={"context": st.dictionaries(st.text(max_size=4), values, max_size=3), "top": st.integers(1, 50)},
)


@given(requests)
def test_msgpack_means_what_json_means(plain: dict[str, Any]) -> None:
    assert msgpack(plain) == decode_request(msgspec.json.encode(plain), LIMITS)


def test_extension_columns_stay_arrays_without_a_copy() -> None:
    ids, bids = np.arange(5, dtype="<i8"), np.linspace(0, 1, 5, dtype="<f4")
    found = msgpack({"user": 7, "candidates": {"item": Ext(2, ids.tobytes()), "bid": Ext(3, bids.tobytes())}})
    assert isinstance(found.candidates, dict)
    assert found.candidates["item"].dtype == np.int64 and found.candidates["item"].tolist() == ids.tolist()  # type: ignore[attr-defined]
    assert found.candidates["bid"].dtype == np.float64  # type: ignore[attr-defined]
    bare = msgpack({"user": 7, "candidates": Ext(1, np.array([3, 1], "<i4").tobytes())})
    assert bare.candidates.tolist() == [3, 1]  # type: ignore[union-attr]
    assert bare.candidates.dtype == np.int64  # type: ignore[union-attr]


def test_an_array_in_the_context_is_a_list_of_numbers() -> None:
    found = msgpack({"user": 7, "candidates": [], "context": {"v": Ext(4, np.array([0.5, 2.0]).tobytes())}})
    assert found.context == {"v": [0.5, 2.0]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not MessagePack"),
        (b"\xc1", "not MessagePack"),
        (b"\xdd\xff\xff\xff\xff", "not MessagePack"),
        (b"\x90", "must be a MessagePack map"),
        (b"\x91" * 5_000 + b"\x90", "nests too deep"),
        (b"\x81\x01\x02", "names in a map must be text|not MessagePack"),
        (msgspec.msgpack.encode({"user": "u", "candidates": {1: [2]}}), "names in a map must be text"),
        (msgspec.msgpack.encode({"user": "u", "candidates": Ext(9, b"")}), "extension type 9"),
        (msgspec.msgpack.encode({"user": "u", "candidates": Ext(2, b"123")}), "3 bytes is no column of int64"),
        (b"\x81\xa1a\xa2\xff\xff", "not MessagePack"),
    ],
)
def test_malformed_msgpack_is_told_as_such(body: bytes, words: str) -> None:
    with pytest.raises(MalformedBodyError, match=words):
        read_request(decode_msgpack(body, LIMITS), LIMITS)


def test_wrong_columns_in_msgpack_are_named() -> None:
    floats, two = Ext(4, np.zeros(1).tobytes()), Ext(2, np.zeros(2, "<i8").tobytes())
    nan = float("nan")
    with pytest.raises(RequestError) as caught:
        msgpack(
            {"user": two, "candidates": {"item": floats, "bid": two}, "top": two, "deadline_ms": nan, "budget": nan}
        )
    assert set(paths(caught.value)) == {
        "$.user", "$.candidates.item", "$.candidates.bid", "$.top", "$.deadline_ms", "$.budget"
    }  # fmt: skip
    with pytest.raises(RequestError) as caught:
        msgpack(
            {"user": b"bytes", "candidates": [b"x"], "context": {"a": b"y"}, "mode": two, "deadline_ms": float("inf")}
        )
    assert set(paths(caught.value)) == {"$.user", "$.candidates[0]", "$.context.a", "$.mode", "$.deadline_ms"}
    with pytest.raises(TooLargeError):
        msgpack({"user": "u", "candidates": two}, Limits(max_candidates=1))


@given(st.binary(max_size=200))
def test_whatever_bytes_come_as_msgpack_are_a_request_or_a_clear_error(body: bytes) -> None:
    with suppress(MalformedBodyError, RequestError, TooLargeError):
        read_request(decode_msgpack(body, LIMITS), LIMITS)


@pytest.mark.parametrize("parts", [1, 2])
def test_arrow_columns_are_the_candidates(parts: int) -> None:
    found = arrow(
        {
            "item": pa.array([5, 6, 7], pa.int32()),
            "bid": pa.array([0.5, 1.5, 2.5], pa.float32()),
            "brand": pa.array(["a", None, "a"]).dictionary_encode(),
            "tags": pa.array([["x"], [], None]),
            "age": pa.array([1, None, 3]),
        },
        {"user": 9, "top": 2, "context": {"device": "ios"}},
        parts=parts,
    )
    assert (found.user, found.top, found.context) == ("9", 2, {"device": "ios"})
    assert isinstance(found.candidates, dict)
    columns: dict[str, Any] = found.candidates
    assert columns["item"].tolist() == [5, 6, 7] and columns["item"].dtype == np.int64
    assert columns["bid"].tolist() == [0.5, 1.5, 2.5]
    assert columns["brand"] == ["a", None, "a"]
    assert columns["tags"] == [["x"], [], None]
    assert columns["age"] == [1, None, 3]


def test_arrow_text_ids_and_no_candidates_are_ordinary() -> None:
    assert arrow({"item": pa.array(["a", "7"])}).candidates == {"item": ["a", "7"]}
    assert arrow({"item": pa.array([], pa.int64())}).candidates["item"].tolist() == []  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("columns", "path"),
    [
        ({"item": pa.array([1.5])}, "$.candidates.item"),
        ({"item": pa.array([1, None])}, "$.candidates.item[1]"),
        ({"item": pa.array([True])}, "$.candidates.item[0]"),
        ({"item": pa.array([2**64 - 1], pa.uint64())}, "$.candidates.item"),
        ({"item": pa.array([1]), "t": pa.array([1], pa.timestamp("ms"))}, "$.candidates.t"),
        ({"item": pa.array([1]), "t": pa.nulls(1)}, "$.candidates.t"),
        ({"item": pa.array([1]), "t": pa.array([[[1]]])}, "$.candidates.t"),
        ({"bid": pa.array([1])}, "$.candidates.item"),
    ],
)
def test_arrow_columns_of_a_wrong_type_are_named(columns: dict[str, Any], path: str) -> None:
    with pytest.raises(RequestError) as caught:
        arrow(columns)
    assert path in paths(caught.value)


def test_arrow_with_too_many_rows_is_refused_even_where_rows_take_no_bytes() -> None:
    with pytest.raises(TooLargeError):
        arrow({"item": pa.array(range(11))}, limits=Limits(max_candidates=10))
    with pytest.raises(TooLargeError):
        arrow({"nothing": pa.nulls(1_000_000)})


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_stream_is_refused_before_it_unfolds(codec: str) -> None:
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pytest.raises(MalformedBodyError, match="compressed"):
        arrow({"item": pa.array(range(10_000))}, options=options)
    with pytest.raises(MalformedBodyError, match="compressed"):  # the dictionary alone may unfold as well
        arrow({"item": pa.array(["x" * 999] * 9).dictionary_encode()}, options=options)


GOOD = stream({"item": pa.array([1, 2, 3]), "s": pa.array(["a", "b", "c"]).dictionary_encode()}, {"user": "u"})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no Arrow IPC stream"),
        (b"ARROW1\0\0" + GOOD, "no Arrow IPC stream"),
        (GOOD[: len(GOOD) // 2], "no Arrow IPC stream"),
        (stream({"item": pa.array([1])}, {}).replace(b"depthrank", b"depthrang"), "has no `depthrank`"),
    ],
)
def test_what_is_no_stream_of_ours_is_told_as_such(body: bytes, words: str) -> None:
    with pytest.raises(MalformedBodyError, match=words):
        decode_arrow(body, LIMITS)


def test_candidates_beside_the_stream_are_refused() -> None:
    with pytest.raises(RequestError, match="the stream's columns are the candidates"):
        arrow({"item": pa.array([1])}, {"user": "u", "candidates": [1]})
    with pytest.raises(MalformedBodyError):
        arrow({"item": pa.array([1])}, [1])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_stream_is_a_request_or_a_clear_error(damage: list[tuple[int, int]]) -> None:
    body = bytearray(GOOD)
    for at, byte in damage:
        body[at] = byte
    with suppress(MalformedBodyError, RequestError, TooLargeError):
        read_request(decode_arrow(bytes(body), LIMITS), LIMITS)


def test_many_integers_in_json_become_an_array_and_larger_ones_stay_texts() -> None:
    ids = list(range(-5, 95))
    found = decode_request(msgspec.json.encode({"user": 1, "candidates": ids}), LIMITS).candidates
    assert isinstance(found, np.ndarray) and found.tolist() == ids
    for other in ([*ids, 2**63], [*ids, "x"], [*map(str, ids)]):
        texts = decode_request(msgspec.json.encode({"user": 1, "candidates": other}), LIMITS).candidates
        assert texts == list(map(str, other))
    with pytest.raises(RequestError, match=r"candidates\[100\]"):
        decode_request(msgspec.json.encode({"user": 1, "candidates": [*ids, True]}), LIMITS)


def test_an_answer_is_the_same_in_both_forms() -> None:
    items = [RankedItem("a", 0.25, {"click": 0.5}, 1)]
    answer = Answer("id", "model", items, [1], [1], {"total": 1.0}, Degraded(True, ["late"]))
    assert msgspec.msgpack.decode(encode_answer_msgpack(answer)) == msgspec.json.decode(encode_answer(answer))


def test_what_is_for_the_house_reaches_no_client() -> None:
    answer = Answer("id", "model", [], [1], [1], {"total": 1.0}, Degraded())
    answer.record, answer.spent = {"a": 1}, Spent(1.0, 1.0, 0, True)
    for told in (msgspec.msgpack.decode(encode_answer_msgpack(answer)), msgspec.json.decode(encode_answer(answer))):
        assert not {"record", "spent"} & told.keys() and told["model"] == "model"
    assert answer.spent != msgspec.UNSET, "the house still has it"
