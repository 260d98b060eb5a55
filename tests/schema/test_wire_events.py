"""POST /v1/events bodies: one event, columns of many, and their mistakes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import RequestError
from depthrank.schema import Limits
from depthrank.schema.wire import EventColumns, MalformedBodyError, TooLargeError, decode_events

LIMITS = Limits()
NOW = 1_790_000_000_000
ONE = {"user": "u", "item": "i", "action": "click"}


def decode(plain: Any, **options: Any) -> EventColumns:
    return decode_events(json.dumps(plain).encode(), LIMITS, NOW, **options)


def problems_of(plain: Any) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        decode(plain)
    return {p.path: str(p) for p in caught.value.problems}


def test_one_event_becomes_columns_of_one_row() -> None:
    events = decode(ONE | {"item": 242, "event_id": "e", "request_id": "r", "position": 3, "time_ms": NOW - 5})
    assert events == EventColumns(["u"], ["242"], ["click"], [NOW - 5], ["e"], ["r"], [3])


@pytest.mark.parametrize("absent", [{}, {"time_ms": None, "event_id": None, "request_id": None, "position": None}])
def test_what_is_absent_or_null_takes_its_default(absent: dict[str, Any]) -> None:
    assert decode(ONE | absent) == EventColumns(["u"], ["i"], ["click"], [NOW])


def test_columns_of_many_keep_their_nulls() -> None:
    events = decode(
        {
            "user": ["u", 2],
            "item": ["i", "j"],
            "action": ["click", "like"],
            "time_ms": [NOW - 2, NOW - 1],
            "event_id": [None, 7],
            "position": [4, None],
        }
    )
    assert events == EventColumns(
        ["u", "2"], ["i", "j"], ["click", "like"], [NOW - 2, NOW - 1], [None, "7"], None, [4, None]
    )


def test_a_single_value_stands_for_every_row() -> None:
    events = decode({"user": "u", "item": ["i", "j", "k"], "action": "click", "request_id": "r"})
    assert (events.user, events.action, events.time_ms) == (["u"] * 3, ["click"] * 3, [NOW] * 3)
    assert events.request_id == ["r"] * 3


def test_a_single_event_id_for_many_rows_is_refused() -> None:
    assert (
        "every event needs its own"
        in problems_of({"user": "u", "item": ["i", "j"], "action": "click", "event_id": "e"})["$.event_id"]
    )


def test_no_events_are_no_mistake() -> None:
    assert len(decode({"user": [], "item": [], "action": []})) == 0


def test_unknown_fields_are_kept_packed_with_their_row() -> None:
    one = decode(ONE | {"context": {"device": "ios"}, "tags": ["a", "b"]})
    assert one.extra and msgspec.msgpack.decode(one.extra[0] or b"") == {
        "context": {"device": "ios"},
        "tags": ["a", "b"],
    }
    many = decode({"user": "u", "item": ["i", "j"], "action": "click", "page": [1, None], "site": "x"})
    assert many.extra and [msgspec.msgpack.decode(e or b"") for e in many.extra] == [
        {"page": 1, "site": "x"},
        {"site": "x"},
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("time", "time_ms"),
        ("timestamp", "time_ms"),
        ("eventid", "event_id"),
        ("positon", "position"),
        ("items", "item"),
    ],
)
def test_a_misspelt_field_is_not_taken_for_an_extra_one(name: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in problems_of(ONE | {name: 5})[f"$.{name}"]


@pytest.mark.parametrize("name", ["session", "price", "context", "event", "action_type", "device_id", "dwell_ms"])
def test_a_name_of_its_own_is_an_extra_field(name: str) -> None:
    assert decode(ONE | {name: 5}).extra is not None


def test_every_mistake_is_told_at_once() -> None:
    paths = problems_of({"user": 1.5, "actoin": "click", "time_ms": "now", "position": -1})
    assert paths.keys() == {"$.item", "$.action", "$.actoin", "$.user", "$.time_ms", "$.position"}
    assert "did you mean it by 'actoin'?" in paths["$.action"]


def test_mistakes_in_columns_are_named_by_their_rows() -> None:
    columns = {"user": ["u"] * 4, "item": ["i", None, "j", ""], "action": ["click"] * 4}
    more = {"time_ms": [NOW, -1, 1.5, NOW + 60_001], "position": [0, -1, None, "x"], "event_id": [None, "e", 1.5, ""]}
    assert problems_of(columns | more).keys() == {
        *("$.item[1]", "$.item[3]", "$.time_ms[1]", "$.time_ms[2]", "$.time_ms[3]"),
        *("$.position[1]", "$.position[3]", "$.event_id[2]", "$.event_id[3]"),
    }


@pytest.mark.parametrize("action", [5, None, "", ["click", 5], ["click", ""], ["click", None]])
def test_an_action_is_a_name_and_no_number(action: Any) -> None:
    assert decode({"user": "u", "item": ["i", "j"], "action": ["click", "like"]}).action == ["click", "like"]
    wrong = "$.action[1]" if isinstance(action, list) else "$.action"
    assert problems_of({"user": "u", "item": ["i", "j"], "action": action}).keys() == {wrong}


def test_columns_of_unequal_length_are_named() -> None:
    assert problems_of({"user": ["u"], "item": ["i", "j"], "action": "click", "page": [1, 2, 3]}).keys() == {
        "$.user",
        "$.page",
    }


def test_sixty_seconds_in_the_future_are_let_in_and_a_millisecond_more_is_not() -> None:
    assert decode(ONE | {"time_ms": NOW + 60_000}).time_ms == [NOW + 60_000]
    assert "60.0 s in the future" in problems_of(ONE | {"time_ms": NOW + 60_001})["$.time_ms"]


@pytest.mark.parametrize(
    ("time_ms", "unit"), [(NOW // 1000, "seconds"), (NOW * 1000, "microseconds"), (NOW * 10**6, "nanoseconds")]
)
def test_a_time_in_another_unit_is_recognised(time_ms: int, unit: str) -> None:
    assert unit in problems_of(ONE | {"time_ms": time_ms})["$.time_ms"]
    columns = {"user": "u", "item": ["i", "j"], "action": "click", "time_ms": [NOW, time_ms]}
    assert unit in problems_of(columns)["$.time_ms[1]"]


def test_where_times_are_row_numbers_no_unit_is_guessed() -> None:
    assert decode(ONE | {"time_ms": NOW // 1000}, wall_clock=False).time_ms == [NOW // 1000]


def test_the_number_of_events_is_limited() -> None:
    many = {"user": "u", "action": "click", "item": list(range(50_000))}
    assert len(decode(many)) == 50_000
    with pytest.raises(TooLargeError):
        decode(many | {"item": list(range(50_001))})


def test_an_extra_integer_beyond_64_bits_is_a_wrong_field() -> None:
    assert problems_of(ONE | {"page": 10**30})


@given(
    st.dictionaries(
        st.sampled_from(["user", "item", "action", "time_ms", "event_id", "request_id", "position", "page"]),
        st.none()
        | st.integers()
        | st.text(max_size=3)
        | st.lists(st.none() | st.integers() | st.text(max_size=3), max_size=3),
    )
)
def test_any_json_becomes_equally_long_columns_or_is_told_what_is_wrong(plain: dict[str, Any]) -> None:
    try:
        events = decode(plain)
    except (RequestError, MalformedBodyError) as error:
        assert str(error)
    else:
        columns = [getattr(events, name) for name in EventColumns.__slots__]
        assert {len(c) for c in columns if c is not None} == {len(events)}
