"""What the model reads and a request does not carry is told in its answer, and nothing else changes."""

from __future__ import annotations

import msgspec
from asking import IDS, ask, shown

from depthrank.engine.unsent_columns import LONGEST_COMPARED, UnsentColumns
from depthrank.schema import Request, Spec


def test_an_answer_names_the_missing_column_and_ranks_it_as_missing(ranker):
    whole, without = ranker.rank(ask()), ranker.rank(ask(context={}))
    assert whole.warnings is msgspec.UNSET, "positive control: nothing is missing"
    assert without.warnings == ["$.context.device: not sent, though the model reads it: ranked as a missing value"]
    null = ranker.rank(ask(context={"device": None}))
    assert null.warnings is msgspec.UNSET and shown(null) == shown(without), "null is said on purpose"


def test_a_misspelt_column_is_found(ranker):
    answer = ranker.rank(ask(context={"devise": "ios", "page": 3}))
    assert answer.warnings == [
        "$.context.device: not sent, though the model reads it: ranked as a missing value "
        "(did you mean it by 'devise'?)"
    ]


def test_every_feature_that_reads_a_candidate_column_asks_for_it():
    features = {
        "price": {"kind": "numeric", "source": "candidate.price"},
        "match": {"kind": "history_match", "compare": ["place"]},
        "along": {"kind": "history_along", "along": "rank"},
        "bid": {"kind": "numeric", "source": "candidate.bid"},
    }
    unsent = UnsentColumns(_spec(features, times="bid"))
    listed = unsent.warnings(Request("u", IDS))
    assert [line.split(":")[0] for line in listed] == [f"$.candidates.{name}" for name in ("place", "price", "rank")]
    assert unsent.warnings(Request("u", {"item": IDS, "price": [], "place": [], "rank": []})) == []
    assert unsent.warnings(Request("u", "all")) == listed


def test_names_of_any_number_and_length_cost_no_time_to_compare():
    unsent = UnsentColumns(_spec({"device": {"kind": "categorical", "source": "context.device"}}))
    long = "device" + "e" * LONGEST_COMPARED
    lines = unsent.warnings(Request("u", IDS, context={long: 1, **{f"x{i}": i for i in range(10_000)}}))
    assert len(lines) == 1 and "did you mean" not in lines[0]


def _spec(features: dict[str, object], **value: object) -> Spec:
    columns = {"context": ["device"], "candidate": ["price", "place", "rank", "bid"]}
    shown = {"path": "i.csv", "user": "user", "item": "item", "time": "order", "request": {"column": "request"}}
    return Spec.from_plain(
        {
            "name": "reads",
            "dataset": {"items": {"path": "items.csv", "id": "item"}, "impressions": {**shown, **columns}},
            "features": features,
            "tasks": {"click": {"column": "click"}},
            "value": {"weights": {"click": 1.0}, **value},
        }
    )
