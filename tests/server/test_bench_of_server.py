"""``depthrank bench URL`` against a server, out of the box."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from live_server import Live, live_server

from depthrank.server import ServerSettings
from depthrank.server.access.settings import AccessSettings, Grant
from depthrank.server.access.tokens import hash_of, new_token


def bench(live: Live, *options: object, **env: str) -> Any:
    command = [sys.executable, "-m", "depthrank.cli", "bench", live.address, *map(str, options), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_users_and_items_come_from_the_server_itself() -> None:
    with live_server() as live:
        live.client.post("/v1/events", json={"user": ["a", "b"], "item": ["1", "2"], "action": "click"})
        figures = bench(live, "--rate", 60, "--seconds", 1, "--candidates", 7, "--warm-up", 0.2)
        assert {request.user for request in live.ranker.ranked} <= {"a", "b"}
        assert all(len(request.candidates) == 7 for request in live.ranker.ranked)
    assert figures["errors"] == 0 and figures["good"] == figures["sent"] == figures["answered"] > 20
    assert figures["core_s_per_1000"] > 0
    assert figures["mean_candidates_scored"] == [7, 7]
    assert "7 candidates of 40 items" in figures["requests"] and "named" in figures["requests"]


def test_where_the_server_names_nobody_made_up_users_rank_everything_and_the_report_says_so() -> None:
    token = new_token()
    grant = Grant(name="load", scopes=("rank",), sha256=hash_of(token))
    settings = ServerSettings(access=AccessSettings(tokens=(grant,)))
    with live_server(settings=settings) as live:
        options = ("--rate", 50, "--steps", "0.5,1", "--seconds", 0.5, "--warm-up", 0)
        figures = bench(live, *options, DEPTHRANK_TOKEN=token)
        assert all(request.user.startswith("bench-") and request.candidates == "all" for request in live.ranker.ranked)
    assert [step["step"] for step in figures["steps"]] == [0.5, 1.0]
    assert figures["errors"] == 0
    assert "made-up users" in figures["requests"] and "403" in figures["requests"]
