"""Names that differ by a number are written once, and stand in the spec written out."""

from __future__ import annotations

from typing import Any

import pytest

from depthrank.errors import FieldProblem, SpecError
from depthrank.schema import Spec
from depthrank.schema.number_ranges import write_out


def written(plain: Any) -> Any:
    problems: list[FieldProblem] = []
    found = write_out(plain, "$", problems)
    assert not problems
    return found


def problems_of(plain: Any) -> list[FieldProblem]:
    problems: list[FieldProblem] = []
    write_out(plain, "$", problems)
    return problems


def test_a_text_of_a_list_becomes_one_a_number() -> None:
    assert written(["a", "f_{8..11}", "b"]) == ["a", "f_8", "f_9", "f_10", "f_11", "b"]
    assert written(["m{08..10}x"]) == ["m08x", "m09x", "m10x"]


def test_a_key_becomes_one_entry_a_number_and_its_value_counts_along() -> None:
    plain = {"f_{1..2}": {"kind": "numeric", "source": "candidate.x_{11..12}", "of": ["y_{3..4}"]}}
    assert written(plain) == {
        "f_1": {"kind": "numeric", "source": "candidate.x_11", "of": ["y_3", "y_4"]},
        "f_2": {"kind": "numeric", "source": "candidate.x_12", "of": ["y_3", "y_4"]},
    }
    assert written({"prices": {"p{1..2}": "price{1..2}"}}) == {"prices": {"p1": "price1", "p2": "price2"}}


@pytest.mark.parametrize("text", ["plain", "{a..b}", "{1..}", "f_{1}", "{1...3}", "{-1..3}"])
def test_what_is_no_range_stays(text: str) -> None:
    assert written([text, {text: text}]) == [text, {text: text}]


def test_a_range_that_counts_down_is_told_and_so_are_lengths_that_differ() -> None:
    assert [p.path for p in problems_of({"candidate": ["f_{3..1}", "f_{1..99999}"]})] == [
        "$.candidate[0]",
        "$.candidate[1]",
    ]
    found = problems_of({"f_{1..3}": {"source": "candidate.f_{1..2}"}})
    assert [(p.path, p.found, p.expected) for p in found] == [
        ("$.f_{1..3}.source", "2 numbers", "3, as many as its name has")
    ]


def plain_spec() -> dict[str, Any]:
    return {
        "name": "lists",
        "dataset": {
            "impressions": {
                "path": "lists.csv",
                "time": "order",
                "request": {"column": "query"},
                "candidate": ["f_{1..40}"],
            }
        },
        "features": {"f_{1..40}": {"kind": "numeric", "source": "candidate.f_{1..40}"}},
        "tasks": {"click": {"column": "click"}},
        "value": {"weights": {"click": 1}},
        "history": {"length": 0},
    }


def test_a_spec_reads_ranges_and_is_stored_written_out() -> None:
    spec = Spec.from_plain(plain_spec())
    assert list(spec.features) == [f"f_{i}" for i in range(1, 41)]
    assert spec.features["f_7"].source == "candidate.f_7"  # type: ignore[union-attr]
    stored = spec.to_plain()
    assert "{" not in str(list(stored["features"])) and Spec.from_plain(stored) == spec


def test_a_range_that_names_a_column_too_many_is_one_of_the_spec_mistakes() -> None:
    plain = plain_spec()
    plain["dataset"]["impressions"]["candidate"] = ["f_{1..39}"]
    with pytest.raises(SpecError, match=r"1 mistake.*\n.*f_40"):
        Spec.from_plain(plain)
