"""POST /v1/rank bodies: what is let in, how it is normalised, and what each mistake is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import RequestError
from depthrank.schema import Limits, Request
from depthrank.schema.wire import MalformedBodyError, TooLargeError, check_request, decode_request

LIMITS = Limits()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def decode(plain: Any, **options: Any) -> Request:
    return decode_request(json.dumps(plain).encode(), LIMITS, **options)


def problems_of(plain: Any, **options: Any) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        decode(plain, **options)
    return {p.path: str(p) for p in caught.value.problems}


def test_defaults_are_filled() -> None:
    request = decode({"user": "u", "candidates": ["a"]})
    assert request == Request(user="u", candidates=["a"], top=10, mode="adaptive")


def test_integer_ids_equal_string_ids() -> None:
    assert decode({"user": 1, "candidates": [2, "3"]}) == decode({"user": "1", "candidates": ["2", 3]})


def test_a_huge_integer_is_an_id_like_any_other() -> None:
    assert decode({"user": 10**40, "candidates": [2**64]}).user == str(10**40)


def test_duplicate_candidates_stay_separate_rows() -> None:
    assert decode({"user": "u", "candidates": ["a", "a", "b"]}).candidates == ["a", "a", "b"]


@pytest.mark.parametrize("count", [0, 1, 50_000])
def test_any_number_of_candidates_up_to_the_limit_is_let_in(count: int) -> None:
    assert len(decode({"user": "u", "candidates": list(range(count))}).candidates) == count
    columns = decode({"user": "u", "candidates": {"item": list(range(count)), "bid": [0.5] * count}}).candidates
    assert isinstance(columns, dict) and len(columns["bid"]) == count


@pytest.mark.parametrize("candidates", [list(range(50_001)), {"item": list(range(50_001))}])
def test_one_candidate_more_is_too_large(candidates: Any) -> None:
    with pytest.raises(TooLargeError) as caught:
        decode({"user": "u", "candidates": candidates})
    assert caught.value.problems[0].path.startswith("$.candidates")


def test_candidates_may_be_the_whole_catalogue() -> None:
    assert decode({"user": "u", "candidates": "all"}).candidates == "all"
    assert "all" in problems_of({"user": "u", "candidates": "everything"})["$.candidates"]


def test_columns_keep_their_values_and_their_ids_become_strings() -> None:
    plain = {"item": [1, "b"], "bid": [0.5, None], "tags": [["x", 1], None], "ok": [True, False]}
    assert decode({"user": "u", "candidates": plain}).candidates == plain | {"item": ["1", "b"]}


def test_columns_of_unequal_length_are_named() -> None:
    found = problems_of({"user": "u", "candidates": {"item": ["a", "b"], "bid": [1], "price": [1, 2, 3]}})
    assert found.keys() == {"$.candidates.bid", "$.candidates.price"}
    assert "found a list of 1, expected 2 values" in found["$.candidates.bid"]


def test_columns_without_items_name_the_nearest_column() -> None:
    assert (
        "did you mean it by 'items'?" in problems_of({"user": "u", "candidates": {"items": ["a"]}})["$.candidates.item"]
    )


def test_every_mistake_is_told_at_once() -> None:
    plain = {"usr": 1, "candidates": [], "top": 0, "budget": 1.5, "deadline_ms": 0, "mode": "fast", "explain": "yes"}
    paths = ["$.usr", "$.user", "$.top", "$.deadline_ms", "$.budget", "$.mode", "$.explain"]
    assert list(problems_of(plain)) == paths


def test_an_unknown_field_names_the_nearest() -> None:
    assert "did you mean 'deadline_ms'?" in problems_of({"user": "u", "candidates": [], "deadline": 5})["$.deadline"]


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("top", [1, 50_000], [0, -1, 50_001, 1.0, "5", True, None, 10**30]),
        ("budget", [1, 0.001, None], [0, -0.5, 1.001, "1", True, 10**30]),
        ("deadline_ms", [0.5, 50, None], [0, -1, "50", False]),
        ("mode", ["adaptive", "full", "router"], ["Full", "", None, 1, []]),
        ("explain", [True, False], [0, 1, None, "true"]),
        ("context", [{}, {"device": "ios", "n": [1, 2]}, None], [[], "ios", 1, {"a": {"b": 1}}, {"a": [[1]]}]),
        ("user", ["u", 0, -5], ["", 1.5, None, True, [], {}]),
        ("time_ms", [0, 1_700_000_000_000, None], [-1, 1.5, "now", True, 10**30]),
    ],
)
def test_fields_take_their_range_and_nothing_else(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert decode({"user": "u", "candidates": [], field: value})
    for value in bad:
        assert any(path.startswith(f"$.{field}") for path in problems_of({"user": "u", "candidates": [], field: value}))


@pytest.mark.parametrize("wrong", [None, 1.5, "", True, ["a"], {"item": "a"}])
def test_a_wrong_candidate_is_named_by_its_row(wrong: Any) -> None:
    assert problems_of({"user": "u", "candidates": ["a", "b", "c", wrong]}).keys() == {"$.candidates[3]"}
    assert problems_of({"user": "u", "candidates": {"item": ["a", wrong]}}).keys() == {"$.candidates.item[1]"}


@pytest.mark.parametrize("wrong", [{"a": 1}, [{"a": 1}], 2**63, -(2**63) - 1, [1, 10**25]])
def test_a_wrong_value_in_a_column_is_named_by_its_row(wrong: Any) -> None:
    paths = problems_of({"user": "u", "candidates": {"item": ["a", "b"], "bid": [0.5, wrong]}})
    assert len(paths) == 1 and next(iter(paths)).startswith("$.candidates.bid[1]")


def test_the_largest_integers_of_64_bits_are_let_in() -> None:
    assert decode({"user": "u", "candidates": {"item": ["a", "b"], "n": [2**63 - 1, -(2**63)]}})


def test_of_many_mistakes_the_first_are_told_and_the_rest_is_counted() -> None:
    with pytest.raises(RequestError) as caught:
        decode({"user": "u", "candidates": [None] * 1000})
    assert len(caught.value.problems) == 32
    assert "the first 32" in caught.value.title


def test_a_million_characters_make_an_id_and_one_more_does_not() -> None:
    assert len(str(decode({"user": "x" * 1_000_000, "candidates": []}).user)) == 1_000_000
    found = problems_of({"user": "u", "candidates": ["a", "x" * 1_000_001]})
    assert "an id of 1,000,001 characters" in found["$.candidates[1]"]
    assert len(found["$.candidates[1]"]) < 300


def test_names_of_any_length_make_short_errors() -> None:
    (message,) = problems_of({"user": "u", "candidates": [], "x" * 1_000_000: 1}).values()
    assert len(message) < 500


def test_a_time_in_another_unit_is_recognised() -> None:
    def hint(time_ms: int) -> str:
        return problems_of({"user": "u", "candidates": [], "time_ms": time_ms})["$.time_ms"]

    assert "did you mean 881250949000?" in hint(881_250_949)
    assert "looks like seconds" in hint(1_790_000_000)
    assert "microseconds" in hint(1_790_000_000_000_000)
    assert "nanoseconds" in hint(1_790_000_000_000_000_000)
    assert decode({"user": "u", "candidates": [], "time_ms": 881_250_949_000}).time_ms == 881_250_949_000


def test_where_times_are_row_numbers_no_unit_is_guessed() -> None:
    request = decode({"user": "u", "candidates": [], "time_ms": 1_790_000_000}, wall_clock=False)
    assert request.time_ms == 1_790_000_000


def test_a_request_made_in_python_is_checked_by_the_same_rules() -> None:
    assert check_request(Request(user=5, candidates=[1]), LIMITS) == Request(user="5", candidates=["1"])
    with pytest.raises(RequestError, match=r"\$\.top"):
        check_request(Request(user="u", candidates=[], top=0), LIMITS)


@given(st.dictionaries(st.sampled_from([*Request.__struct_fields__, "other"]), JSON))
def test_any_json_is_decoded_or_told_what_is_wrong(plain: dict[str, Any]) -> None:
    try:
        request = decode(plain)
    except (MalformedBodyError, TooLargeError, RequestError) as error:
        assert str(error)
    else:
        assert isinstance(request.user, str)


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    with pytest.raises((MalformedBodyError, RequestError)):
        decode_request(body, LIMITS)


@given(st.lists(st.text(min_size=1, max_size=5) | st.integers(), max_size=30))
def test_good_candidates_come_through_in_order(ids: list[str | int]) -> None:
    ids = [i for i in ids if not isinstance(i, str) or i.isprintable()]
    assert decode({"user": "u", "candidates": ids}).candidates == [str(i) for i in ids]
