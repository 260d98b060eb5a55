"""Tokens and scopes, over a real socket: who is let in, and that nothing of a token is ever told."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest
from live_server import Live, live_server

from depthrank.server import ServerSettings
from depthrank.server.access.scopes import NEEDS, need_of
from depthrank.server.access.settings import AccessSettings, Grant, Scope
from depthrank.server.access.tokens import hash_of, new_token
from depthrank.server.app import ROUTES

TOKENS: dict[Scope, str] = {"rank": new_token(), "events": new_token(), "admin": new_token()}
GRANTS = tuple(Grant(name=f"the-{s}", scopes=(s,), sha256=hash_of(t)) for s, t in TOKENS.items())
RANK = {"user": "u", "candidates": ["1"]}
EVENT = {"user": "u", "item": "1", "action": "click"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Live]:
    with live_server(settings=ServerSettings(access=AccessSettings(tokens=GRANTS))) as live:
        yield live


def ask(live: Live, scope: Scope | str | None, method: str, path: str, body: object = None) -> httpx.Response:
    token = TOKENS.get(scope, scope)  # type: ignore[call-overload]
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return live.client.request(method, path, json=body, headers=headers)


CALLS = [
    ("rank", "POST", "/v1/rank", RANK),
    ("events", "POST", "/v1/events", EVENT),
    ("rank", "GET", "/v1/items?ids=1", None),
    ("admin", "POST", "/v1/items", {"item": ["1"], "title": ["x"]}),
    ("admin", "GET", "/v1/users/u/history", None),
    ("admin", "DELETE", "/v1/users/u", None),
    ("admin", "GET", "/v1/settings", None),
]


@pytest.mark.parametrize(("needed", "method", "path", "body"), CALLS)
def test_a_call_needs_its_scope(guarded: Live, needed: Scope, method: str, path: str, body: object) -> None:
    for scope in (None, "a wrong one"):
        refused = ask(guarded, scope, method, path, body)
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "unauthorized"
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    for scope in TOKENS:
        status = ask(guarded, scope, method, path, body).status_code
        assert status == (200 if scope in (needed, "admin") else 403), scope


def test_a_403_names_the_scope_that_is_missing(guarded: Live) -> None:
    refused = ask(guarded, "rank", "POST", "/v1/events", EVENT)
    assert refused.json()["error"]["type"] == "forbidden"
    assert "scope events" in refused.json()["error"]["message"]


def test_health_is_open_and_metrics_need_any_token(guarded: Live) -> None:
    assert ask(guarded, None, "GET", "/health/live").status_code == 200
    assert ask(guarded, "a wrong one", "GET", "/health/live").status_code == 200
    assert ask(guarded, None, "GET", "/metrics").status_code == 401
    assert ask(guarded, "rank", "GET", "/metrics").status_code == 200


@pytest.mark.parametrize(("metrics", "scope", "status"), [("open", None, 200), ("admin", "rank", 403)])
def test_who_reads_metrics_is_a_setting(metrics: str, scope: Scope | None, status: int) -> None:
    access = AccessSettings(tokens=GRANTS, metrics=metrics)  # type: ignore[arg-type]
    with live_server(settings=ServerSettings(access=access)) as live:
        assert ask(live, scope, "GET", "/metrics").status_code == status


def test_every_route_was_thought_of_or_is_for_admins() -> None:
    listed = {pattern for _, pattern, _ in NEEDS}
    admin_only = {
        (route.path.replace(":path", ""), method)
        for route in ROUTES
        for method in route.methods or ()
        if need_of(method, route.path) == "admin"
    }
    assert {("/v1/users/{user}", "DELETE"), ("/v1/items", "POST"), ("/v1/settings", "GET")} <= admin_only
    assert "/v1/rank" in listed
    assert need_of("GET", "/somewhere/new") == "admin"
    assert need_of("DELETE", "/v1/rank") == "admin"
    assert need_of("GET", "/v2") == "token" and need_of("POST", "/v2/models/m/infer") == "rank"


def test_without_tokens_everybody_may_do_everything() -> None:
    with live_server() as live:
        assert ask(live, None, "GET", "/v1/settings").status_code == 200
        assert ask(live, "any", "POST", "/v1/rank", RANK).status_code == 200


def test_a_token_stands_neither_in_a_log_nor_in_settings_nor_in_metrics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with live_server(settings=ServerSettings(access=AccessSettings(tokens=GRANTS))) as live:
        live.ranker.rank_fault = lambda: 1 / 0
        assert ask(live, "rank", "POST", "/v1/rank", RANK).status_code == 500
        texts = [ask(live, scope, "GET", "/v1/settings").text for scope in TOKENS]
        texts += [
            ask(live, "sent-by-mistake", "POST", "/v1/rank", RANK).text,
            ask(live, "admin", "GET", "/metrics").text,
        ]
        texts.append(ask(live, "admin", "GET", "/v1/nowhere").text)
    told = "\n".join([caplog.text, *texts])
    assert "failed: POST /v1/rank" in told  # the log was caught
    for secret in (*TOKENS.values(), *(g.sha256 for g in GRANTS), "sent-by-mistake"):
        assert secret not in told
    assert "the-admin" in told
