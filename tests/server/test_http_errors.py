"""Every error has one shape, the right status, and nothing of the server's inside."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from live_server import Live, live_server
from ranker_double import RankerDouble

from depthrank.errors import LogError, StorageFullError
from depthrank.schema import Limits
from depthrank.server import ServerSettings

GOOD = {"user": "u", "candidates": ["1"]}
EVENT = {"user": "u", "item": "1", "action": "click"}


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "kind"),
    [
        ("POST", "/v1/rank", b"user=1", 400, "malformed_body"),
        ("POST", "/v1/rank", b"", 400, "malformed_body"),
        ("POST", "/v1/rank", b"[" * 100_000, 400, "malformed_body"),
        ("POST", "/v1/rank", b'{"user": "\xff"}', 400, "malformed_body"),
        ("POST", "/v1/rank", b'{"user": "u", "candidates": [NaN]}', 400, "malformed_body"),
        ("POST", "/v1/events", b"[]", 400, "malformed_body"),
        ("POST", "/v1/items", b"{", 400, "malformed_body"),
        ("POST", "/v1/rank", b"{}", 422, "wrong_fields"),
        ("POST", "/v1/events", b'{"user": "u", "item": "i", "action": "a", "time_ms": 9e99}', 422, "wrong_fields"),
        ("POST", "/v1/items", b'{"item": [1], "titel": ["x"]}', 422, "wrong_fields"),
        ("POST", "/v1/items", b'{"item": [1], "year": ["x"]}', 422, "wrong_fields"),
        ("GET", "/v1/items", b"", 422, "wrong_fields"),
        ("GET", "/v1/items?idz=1", b"", 422, "wrong_fields"),
        ("GET", "/v1/users/u/history?limit=0", b"", 422, "wrong_fields"),
        ("GET", "/v1/users/u/history?limit=-1", b"", 422, "wrong_fields"),
        ("GET", "/v1/users/u/history?limt=5", b"", 422, "wrong_fields"),
        ("GET", "/v1/users/u/history?limit=" + "9" * 400, b"", 422, "wrong_fields"),
        ("GET", "/v1/items?" + "&".join(["id=1"] * 1001), b"", 413, "too_large"),
        ("GET", "/v3", b"", 404, "not_found"),
        ("GET", "/v1/users//history", b"", 404, "not_found"),
        ("DELETE", "/v1/users/u/history", b"", 404, "not_found"),
        ("DELETE", "/v1/users/u/more", b"", 404, "not_found"),
        ("GET", "/v1/rank", b"", 405, "method_not_allowed"),
        ("PUT", "/v1/items", b"", 405, "method_not_allowed"),
    ],
)
def test_a_wrong_request_has_its_status_and_type(
    live: Live, method: str, path: str, content: bytes, status: int, kind: str
) -> None:
    response = live.client.request(method, path, content=content)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"type", "message", "problems", "request_id"}
    assert error["type"] == kind and error["message"]
    assert error["request_id"] == response.headers["X-Request-Id"]
    for problem in error["problems"]:
        assert problem.keys() == {"path", "found", "expected", "hint"}
    assert bool(error["problems"]) == (status in (413, 422))


def test_a_refused_method_names_the_allowed_ones(live: Live) -> None:
    response = live.client.put("/v1/items")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "POST"}


def test_a_compressed_body_is_refused_in_words(live: Live) -> None:
    response = live.client.post("/v1/rank", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert response.status_code == 415
    assert "gzip" in response.json()["error"]["message"]


def test_more_candidates_than_the_limit_are_too_large() -> None:
    with live_server(settings=ServerSettings(limits=Limits(max_candidates=2))) as live:
        assert live.client.post("/v1/rank", json=GOOD | {"candidates": [1, 2]}).status_code == 200
        response = live.client.post("/v1/rank", json=GOOD | {"candidates": [1, 2, 3]})
        assert response.status_code == 413
        assert response.json()["error"]["problems"][0]["path"] == "$.candidates"


def fail(error: Exception) -> Any:
    def fault() -> None:
        raise error

    return fault


def test_a_failure_inside_tells_the_client_nothing_and_the_log_everything(caplog: pytest.LogCaptureFixture) -> None:
    ranker = RankerDouble()
    ranker.rank_fault = fail(RuntimeError("secret weights at /srv/secret"))
    with live_server(ranker) as live, caplog.at_level(logging.ERROR):
        response = live.client.post("/v1/rank", json=GOOD, headers={"X-Request-Id": "find-me"})
        assert live.metric("depthrank_internal_errors_total") == 1
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "internal"
    assert "secret" not in response.text and "Traceback" not in response.text
    (record,) = [r for r in caplog.records if "find-me" in r.getMessage()]
    assert record.exc_info and "secret weights" in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (StorageFullError("/srv/secret is full"), 507, "storage_full"),
        (LogError("/srv/secret cannot be read"), 503, "log_unavailable"),
    ],
)
def test_a_log_that_cannot_be_written_acknowledges_nothing(
    error: Exception, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    ranker = RankerDouble()
    ranker.append_fault = fail(error)
    with live_server(ranker) as live:
        response = live.client.post("/v1/events", json=EVENT)
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
        assert "nothing was acknowledged" in response.json()["error"]["message"]
        assert "secret" not in response.text and "secret" in caplog.text
        assert not ranker.events
        ranker.append_fault = lambda: None  # positive control: with room again it appends
        assert live.client.post("/v1/events", json=EVENT).json()["appended"] == 1
