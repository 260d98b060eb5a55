"""Bodies that are not JSON, too deep or too large."""

from __future__ import annotations

import pytest

from depthrank.errors import RequestError
from depthrank.schema import Limits
from depthrank.schema.wire import MalformedBodyError, TooLargeError, decode_json

LIMITS = Limits(max_body_bytes=50_000_000)


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_an_object_at_the_depth_limit_is_let_in() -> None:
    assert decode_json(nested(32), LIMITS)


def test_one_level_more_is_too_deep() -> None:
    with pytest.raises(MalformedBodyError, match="at most 32 levels"):
        decode_json(nested(33), LIMITS)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert len(decode_json(b'{"a":[' + b",".join([b"[1]"] * 1000) + b"]}", LIMITS)["a"]) == 1000


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("depth", [1_000, 100_000, 5_000_000])
def test_hostile_nesting_is_an_error_and_not_a_crash(opening: bytes, depth: int) -> None:
    with pytest.raises(MalformedBodyError):
        decode_json(opening * depth, LIMITS)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty"),
        (b"  ", "the body is empty"),
        (b"{", "truncated"),
        (b"user=1", "not JSON"),
        (b"{'user': 1}", "not JSON"),
        (b'{"a": 1} x', "trailing"),
        (b'{"a": NaN}', "JSON has no NaN and no Infinity"),
        (b'{"a": [1, Infinity]}', "JSON has no NaN and no Infinity"),
        (b'{"a": -Infinity}', "JSON has no NaN and no Infinity"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"all"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
    ],
)
def test_a_malformed_body_says_why(body: bytes, said: str) -> None:
    with pytest.raises(MalformedBodyError, match=said):
        decode_json(body, LIMITS)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 5_000])
def test_a_number_beyond_every_machine_type_is_a_wrong_field(number: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        decode_json(b'{"a": [1, ' + number + b"]}", LIMITS)
    assert caught.value.problems[0].path.startswith("$")


def test_a_body_above_the_limit_is_too_large() -> None:
    limits = Limits(max_body_bytes=10)
    assert decode_json(b'{"a": 123}', limits) == {"a": 123}
    with pytest.raises(TooLargeError) as caught:
        decode_json(b'{"a": 1234}', limits)
    assert caught.value.problems[0].expected == "at most 10 bytes"
