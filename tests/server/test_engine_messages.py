"""What crosses between the front and its engines arrives as it left, however it is cut up on the way."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import ArtifactError, FieldProblem, LogError, RequestError, StorageFullError
from depthrank.schema import Answer, Degraded, RankedItem, Request
from depthrank.schema.wire import TooLargeError
from depthrank.server.workers.faults import EngineFault, error_of, fault_of
from depthrank.server.workers.messages import (
    Fault,
    Frames,
    Outcome,
    Rank,
    Ranked,
    Seen,
    ToEngine,
    ToFront,
    asked,
    encode,
)

VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()


@given(
    user=st.text(min_size=1),
    ids=st.lists(st.text(min_size=1), max_size=5),
    column=st.lists(VALUES | st.lists(VALUES, max_size=3), max_size=5),
    cut=st.integers(1, 50),
)
def test_a_request_arrives_whole_however_it_is_cut(user: str, ids: list[str], column: list[Any], cut: int) -> None:
    request = Request(user=user, candidates={"item": ids, "x": column}, context={"c": 1}, budget=0.5, priority="low")
    message = Rank(3, "v", Seen(7, 1), [asked(request, "r", 1.5, 0.25, record=True)])
    raw, frames = encode(message) * 2, Frames(ToEngine)
    arrived = [m for i in range(0, len(raw), cut) for m in frames.feed(raw[i : i + cut])]
    assert len(arrived) == 2 and arrived[0].seen == Seen(7, 1)
    assert arrived[1].asked[0].restored() == request and arrived[1].asked[0].price == 0.25


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float32, np.int32])
def test_arrays_cross_as_arrays(dtype: Any) -> None:
    values = np.arange(5).astype(dtype)
    request = Request(user="u", candidates={"item": np.arange(5), "bid": values})  # type: ignore[dict-item]
    (message,) = Frames(ToEngine).feed(encode(Rank(1, "v", Seen(), [asked(request, "r", 0.0, None, record=False)])))
    columns = message.asked[0].restored().candidates
    assert columns["bid"].dtype == dtype and columns["bid"].tolist() == values.tolist()


def test_an_answer_arrives_with_all_its_numbers() -> None:
    answer = Answer(
        "r", "m", [RankedItem("i", 0.1 + 0.2, {"t": 1e-300}, -1)], [3, 1], [3, 1], {"total": 1.0}, Degraded()
    )
    (ranked,) = Frames(ToFront).feed(encode(Ranked(1, [Outcome(answer), Fault("internal", "no")], 0.5, 0.25)))
    assert ranked.outcomes[0].answer == answer and ranked.busy_s == 0.5


@pytest.mark.parametrize(
    "error",
    [
        RequestError("wrong:", [FieldProblem("$.a", "1", "2", "try 2")]),
        TooLargeError("large:", [FieldProblem("$.b", "9", "8")]),
        LogError("down"),
        StorageFullError("full"),
        ArtifactError("damaged"),
    ],
)
def test_errors_that_somebody_can_act_on_arrive_as_what_they_were(error: Exception) -> None:
    fault = msgspec.msgpack.decode(msgspec.msgpack.encode(fault_of(error)), type=Fault)
    again = error_of(fault)
    assert type(again) is type(error) and str(again) == str(error)
    assert getattr(again, "problems", None) == getattr(error, "problems", None)


def test_any_other_error_is_an_engine_fault_with_its_traceback() -> None:
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError as error:
        again = error_of(fault_of(error))
    assert isinstance(again, EngineFault) and "by nothing" in str(again) and "test_engine_messages" in str(again)


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        list(Frames(ToFront).feed(b"\x01\x00\x00\x00\xc1"))
