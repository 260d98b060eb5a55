"""The reranker shape: users as queries, items as documents, scores that keep the order."""

from __future__ import annotations

from typing import Any

import pytest
from live_server import Live
from ranker_double import small_spec

from depthrank.schema import Answer, Degraded, RankedItem, Request, Spec
from depthrank.server.protocols.rerank import relevance_of, results_of

IDS = ["5", "3", "9", "1"]


def ask(live: Live, **body: Any) -> Any:
    return live.client.post("/v1/rerank", json={"query": "u", "documents": IDS} | body)


def test_documents_come_back_by_index_in_the_order_of_the_ranking(live: Live) -> None:
    ranked = live.client.post("/v1/rank", json={"user": "u", "candidates": IDS}).json()["items"]
    told = ask(live).json()
    assert [IDS[r["index"]] for r in told["results"]] == [item["item"] for item in ranked]
    scores = [r["relevance_score"] for r in told["results"]]
    assert scores == sorted(scores, reverse=True) and all(0 <= s <= 1 for s in scores)
    assert told["id"] and told["meta"] == {"model": "double", "degraded": False, "reasons": []}
    assert "document" not in told["results"][0]


def test_top_n_and_documents_are_as_asked(live: Live) -> None:
    told = ask(live, top_n=2, return_documents=True, model="double").json()
    assert len(told["results"]) == 2
    for result in told["results"]:
        assert result["document"] == {"id": IDS[result["index"]]}


def test_objects_bring_context_and_columns(live: Live) -> None:
    documents = [{"id": 5, "price": 0.5}, {"text": "3"}, "9"]
    query = {"user": 7, "context": {"device": "ios"}, "deadline_ms": 500}
    told = ask(live, query=query, documents=documents, return_documents=True, max_tokens_per_doc=9).json()
    assert sorted(r["index"] for r in told["results"]) == [0, 1, 2]
    asked: Request = live.ranker.ranked[-1]
    assert (asked.user, asked.context) == ("7", {"device": "ios"})
    assert asked.deadline_ms is not None and 0 < asked.deadline_ms <= 500  # the server's own time is taken off
    assert asked.candidates == {"item": ["5", "3", "9"], "price": [0.5, None, None]}


def test_the_same_document_twice_is_two_documents(live: Live) -> None:
    assert sorted(r["index"] for r in ask(live, documents=["3", "5", "3"]).json()["results"]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"documents": "5"}, "$.documents"),
        ({"documents": [None]}, "$.documents[0]"),
        ({"documents": [{"bid": 1}]}, "$.documents[0]"),
        ({"documents": [{"id": 1, "item": 2}]}, "$.documents"),
        ({"query": None}, "$.query"),
        ({"query": {"context": {}}}, "$.query.user"),
        ({"query": {"user": 1, "contxt": {}}}, "$.query.contxt"),
        ({"model": "rerank-v3"}, "$.model"),
        ({"top_n": 0}, "$.top_n"),
        ({"return_documents": 1}, "$.return_documents"),
        ({"top_m": 2}, "$.top_m"),
    ],
)
def test_wrong_fields_are_named(live: Live, body: dict[str, Any], path: str) -> None:
    refused = ask(live, **body)
    assert refused.status_code == 422
    assert path in [p["path"] for p in refused.json()["error"]["problems"]]


def answer_of(*values_and_levels: tuple[float, int], first_index: int | None = None) -> Answer:
    items = [RankedItem(str(i), value, {}, level) for i, (value, level) in enumerate(values_and_levels)]
    return Answer("id", "m", items, [], [], {}, Degraded())


def with_bid(spec: Spec) -> Spec:
    plain_value = type(spec.value)(weights=spec.value.weights, times="bid")
    changed = {name: getattr(spec, name) for name in spec.__struct_fields__} | {"value": plain_value}
    return type(spec)(**changed)


def test_a_score_is_the_mean_probability_and_never_grows() -> None:
    spec = small_spec()  # weights 1 and 2
    assert relevance_of(answer_of((1.5, 1), (0.75, 1), (2.7, 0), (0.3, 0)), spec) == pytest.approx(
        [0.5, 0.25, 0.25, 0.1]
    )
    assert relevance_of(answer_of((9.0, 1), (-1.0, 1)), spec) == [1.0, 0.0]
    assert relevance_of(answer_of((0.6, -1), (float("nan"), 1)), spec) == [0.0, 0.0]
    assert relevance_of(answer_of(), spec) == []


def test_with_a_bid_a_score_is_a_share_of_the_best_value() -> None:
    spec = with_bid(small_spec())
    assert relevance_of(answer_of((50.0, 1), (200.0, 0), (20.0, 0)), spec) == pytest.approx([0.25, 0.25, 0.1])


def test_an_index_that_the_ranker_tells_is_taken() -> None:
    answer = answer_of((1.0, 1), (0.5, 1))
    for item, index in zip(answer.items, (7, 2), strict=True):
        item.index = index
    assert [r.index for r in results_of(answer, Request("u", ["0", "1"]), small_spec(), None)] == [7, 2]
