"""Does a server's memory stay flat? 100,000 requests over HTTP, with events among them, and resident memory as it goes.

    python benchmarks/bench_memory.py [--artifact demo/artifact] [--events demo/events] [--requests 100000]
        [--event-every 10] [--json F]

One connection asks again at once: 25 candidates of 2,000 users in mode ``router`` (a tenth at full depth), and after
every tenth request an event, so that histories grow and cached states with them (``--event-every 0``: none). The slope
is that of a line through the later half of the samples; it is that of anonymous memory, since the event log grows and
its pages are mapped. About 5 minutes alone on a core.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from machine_facts import machine_facts
from served_artifact_client import KeepAliveClient
from served_versions import Nursery, Server, memory_kinds, resident_mb, slope, write_result

USERS, CANDIDATES, SAMPLES = 2_000, 25, 100
EVENT_EVERY, FULL_EVERY = 10, 10
JSON = "application/json"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, default=Path("demo/artifact"))
    parser.add_argument("--events", type=Path, default=Path("demo/events"))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--event-every", type=int, default=EVENT_EVERY, help="of how many requests; 0: no events")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    nursery = Nursery()
    try:
        with tempfile.TemporaryDirectory() as place:
            shutil.copytree(wanted.events, Path(place) / "events")
            with nursery.running(wanted.artifact, f"lmdb:{place}/events", settings=settings(place)) as server:
                found = measured(server, wanted.requests, wanted.event_every)
                result = {"machine": machine_facts("depthrank", "torch", "lmdb"), **found}
    finally:
        nursery.stop()
    write_result(result, wanted.json)


def settings(place: str) -> dict[str, Any]:
    """Decision records go where they are removed."""
    return {"decisions": {"folder": f"{place}/decisions"}}


def measured(server: Server, requests: int, event_every: int) -> dict[str, Any]:
    """What was answered, and memory on the way."""
    items = server.client.get("/v1/models").json()["models"][0]["items"]
    client, chance = KeepAliveClient(str(server.client.base_url)), random.Random(0)
    answers: Counter[str] = Counter()
    memory_mb, started = [memory_kinds(server.pid)["own"]], time.monotonic()
    for number in range(requests):
        user = str(1 + chance.randrange(USERS))
        first = 1 + chance.randrange(max(1, items - CANDIDATES))
        mode = "full" if number % FULL_EVERY == 0 else "router"
        body = {"user": user, "candidates": list(range(first, first + CANDIDATES)), "mode": mode}
        answer = msgspec.json.decode(client.ask("POST", "/v1/rank", msgspec.json.encode(body), JSON))
        answers[mode if answer["items"] and not answer["degraded"]["is"] else "degraded"] += 1
        if event_every and number % event_every == 0:
            event = {"user": user, "item": str(first), "action": "click"}
            client.ask("POST", "/v1/events", msgspec.json.encode(event), JSON)
        if (number + 1) % max(1, requests // SAMPLES) == 0:
            memory_mb.append(memory_kinds(server.pid)["own"])
    seconds = time.monotonic() - started
    per_sample = requests / SAMPLES
    return {
        "requests": requests,
        "events": len(range(0, requests, event_every)) if event_every else 0,
        "seconds": round(seconds, 1),
        "answers": dict(answers),
        "resident_mb": round(resident_mb(server.pid), 1),
        "anonymous_mb": {
            "first": round(memory_mb[0], 1),
            "tenth": round(memory_mb[len(memory_mb) // 10], 1),
            "half": round(memory_mb[len(memory_mb) // 2], 1),
            "last": round(memory_mb[-1], 1),
            "most": round(max(memory_mb), 1),
        },
        "anonymous_mb_per_10000_requests_later_half": round(slope(memory_mb) * 10_000 / per_sample, 3),
    }


if __name__ == "__main__":
    main()
