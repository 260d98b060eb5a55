"""/metrics: a registry of its own, few labels, and a documented list."""

from __future__ import annotations

from pathlib import Path

from live_server import Live, live_server

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_documented_list_is_the_exported_one(live: Live) -> None:
    families = live.service.metrics.registry.collect()
    exported = {family.name for family in families if family.name.startswith("depthrank_")}
    documented = {
        line.split("`")[1].split("{")[0].removesuffix("_total")
        for line in OPERATIONS.read_text().splitlines()
        if line.startswith("| `depthrank_")
    }
    assert len(exported) > 10
    assert documented == exported


def test_paths_are_counted_by_route_and_never_by_what_a_client_made_up() -> None:
    with live_server() as live:
        for user in ("a", "b", "c"):
            live.client.get(f"/v1/users/{user}/history")
            live.client.get(f"/made/up/{user}")
        labels = {"method": "GET", "endpoint": "/v1/users/{user}/history", "status": "200"}
        assert live.metric("depthrank_requests_total", **labels) == 3
        assert live.metric("depthrank_requests_total", method="GET", endpoint="other", status="404") == 3
        live.client.request("PROPFIND", "/v1/rank")
        assert live.metric("depthrank_requests_total", method="other", endpoint="/v1/rank", status="405") == 1
        assert "made" not in live.client.get("/metrics").text


def test_the_endpoint_exports_what_the_registry_holds(live: Live) -> None:
    response = live.client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "depthrank_ready 1.0" in response.text and "process_resident_memory_bytes" in response.text


def test_what_the_ranker_measures_of_itself_is_exported(live: Live) -> None:
    assert live.metric("depthrank_user_states_found_total", how="warm") == 3
    assert live.metric("depthrank_user_state_bytes") == 1e6
    assert live.metric("depthrank_cost_error", quantile="0.9") == 0.125
    assert 'quantile="0.5"' not in live.client.get("/metrics").text, "what is not measured is not exported"


def test_two_servers_in_one_process_count_apart(live: Live) -> None:
    with live_server() as other:
        other.client.get("/health/live")
        labels = {"method": "GET", "endpoint": "/health/live", "status": "200"}
        assert other.metric("depthrank_requests_total", **labels) == 1
        assert live.metric("depthrank_requests_total", **labels) == 0


def test_stages_and_candidates_of_a_request_are_counted() -> None:
    with live_server() as live:
        live.client.post("/v1/rank", json={"user": "u", "candidates": list(range(30))})
        assert live.metric("depthrank_candidates_sum") == 30
        assert live.metric("depthrank_rank_stage_seconds_count", stage="expert") == 1
