"""Model swaps under load: errors, latency beside a band of identical runs, memory over many swaps.

    python benchmarks/bench_swaps.py [--artifact demo/artifact] [--events demo/events] [--every-s 7] [--swaps 200]
                                     [--json F]

The server is a process of its own. Its capacity is taken as the rate at which it answers a closed loop of two clients;
then 70 % of that is offered three times: twice as it is (the band), and once while a version is loaded, labelled stable
and the one before unloaded, again and again. Both versions are the same model but for a hundredth of its norms, plan
ladder included, so that the load is the same whichever serves. Latency counts from the intended send time. Then 200
versions, one after the other, on a server without a load, for memory. About 4 minutes.

``--part loaded`` or ``--part alone`` runs one of the two and keeps the other's figures in the file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from depthrank.cli.load import Arrivals, Load, run_load
from machine_facts import machine_facts
from served_versions import Nursery, Server, memory_kinds, model_folder, slope, write_result

USERS, CANDIDATES = 200, 500
BAND_S, SWAPS_UNDER_LOAD = 25.0, 10
LOAD_SHARE = 0.7


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, default=Path("demo/artifact"))
    parser.add_argument("--events", type=Path, default=Path("demo/events"))
    parser.add_argument("--every-s", type=float, default=7.0, help="between two swaps under load")
    parser.add_argument("--swaps", type=int, default=200, help="without a load, for memory")
    parser.add_argument("--under-load", type=int, default=SWAPS_UNDER_LOAD, help="swaps under load, at most")
    parser.add_argument("--part", choices=("loaded", "alone"), help="default: both")
    parser.add_argument("--deadline-ms", type=float, default=100.0)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    kept: dict[str, Any] = json.loads(wanted.json.read_text()) if wanted.json and wanted.json.exists() else {}
    nursery = Nursery()
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = model_folder(wanted.artifact, wanted.events, Path(place) / "models")
            log = f"lmdb:{folder / 'events'}"
            if wanted.part != "alone":
                with nursery.running(folder / "v1", log, settings=settings()) as server:
                    kept |= measured(server, wanted)
                write_result(kept, wanted.json)
            if wanted.part != "loaded":
                with nursery.running(folder / "v1", log, settings=settings(warm_users=0)) as server:
                    alone = Swaps(server, wanted.swaps)
                    alone.run()
                facts = machine_facts("depthrank", "torch")
                write_result({**kept, "swaps_alone": {**alone.facts(), "machine": facts}}, wanted.json)
    finally:
        nursery.stop()


def settings(**models: Any) -> dict[str, Any]:
    """Of the server; ``warm_users`` 0: no histories are encoded before a switch."""
    return {"models": {"manage": True, "keep_previous": False, **models}, "decisions": {"share": 0.0}}


def measured(server: Server, wanted: argparse.Namespace) -> dict[str, Any]:
    """The three loads and what the swaps did."""
    bodies = requests_of(server, wanted.deadline_ms)
    capacity = closed_loop_rps(server, bodies)
    rate = LOAD_SHARE * capacity
    band = [loaded(server, bodies, rate, BAND_S, seed) for seed in (1, 2)]
    swaps = Swaps(server, wanted.under_load, wanted.every_s)
    thread = threading.Thread(target=swaps.run)
    thread.start()
    during = loaded(server, bodies, rate, wanted.under_load * wanted.every_s, 3)
    swaps.stop.set()
    thread.join()
    p99 = [run["p99_ms"] for run in band]
    return {
        "machine": machine_facts("depthrank", "torch"),
        "closed_loop_rps": round(capacity, 1),
        "offered_rps": round(rate, 1),
        "candidates": CANDIDATES,
        "deadline_ms": wanted.deadline_ms,
        "band": band,
        "during_swaps": during,
        "p99_over_worse_of_band": round(during["p99_ms"] / max(p99), 3),
        "late_or_refused": [run["sent"] - run["good"] for run in (*band, during)],
        "swaps_under_load": swaps.facts(),
    }


def requests_of(server: Server, deadline_ms: float) -> list[dict[str, Any]]:
    """Requests of many users for the same number of candidates."""
    found = server.client.get("/v1/models").json()["models"][0]["items"]
    ids = [str(n) for n in range(1, min(found, CANDIDATES) + 1)]
    return [{"user": str(n), "candidates": ids, "top": 10, "deadline_ms": deadline_ms} for n in range(1, USERS + 1)]


def closed_loop_rps(server: Server, bodies: list[dict[str, Any]], seconds: float = 5.0) -> float:
    """Answers a second to two clients that ask again at once."""
    counts = [0, 0]
    end = time.monotonic() + seconds

    def ask(client_number: int) -> None:
        with httpx.Client(base_url=server.client.base_url) as client:
            while time.monotonic() < end:
                client.post("/v1/rank", json=bodies[(7 * counts[client_number] + client_number) % len(bodies)])
                counts[client_number] += 1

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return sum(counts) / seconds


def loaded(server: Server, bodies: list[dict[str, Any]], rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Figures of one open-loop load."""
    return run_load(str(server.client.base_url), bodies, Arrivals(rate, seconds, seed=seed), Load()).figures()


class Swaps:
    """Loads the version that is not served, labels it stable, and notes how long it took and the memory after it.
    ``every_s``: from the start of one swap to the next."""

    def __init__(self, server: Server, most: int, every_s: float = 0.0) -> None:
        self.stop = threading.Event()
        self._server, self._most, self._every_s = server, most, every_s
        self._seconds: list[float] = []
        self._memory_mb = [memory_kinds(server.pid)]
        self._failed: list[str] = []

    def run(self) -> None:
        """Until there were enough, or it is told to stop."""
        with httpx.Client(base_url=self._server.client.base_url, timeout=600) as client:
            for number in range(self._most):
                if self.stop.wait(max(0.0, self._every_s - self._seconds[-1]) if self._seconds else 0.0):
                    return
                started = time.monotonic()
                body = {"action": "load", "path": "v2" if number % 2 == 0 else "v1", "label": "stable"}
                answer = client.post("/v1/models", json=body)
                self._seconds.append(time.monotonic() - started)
                self._memory_mb.append(memory_kinds(self._server.pid))
                if answer.status_code != 200:
                    self._failed.append(answer.text[:200])

    def facts(self) -> dict[str, Any]:
        """Times and memory."""
        kinds = {kind: [each[kind] for each in self._memory_mb] for kind in self._memory_mb[0]}
        every = max(1, len(self._memory_mb) // 20)
        return {
            "done": len(self._seconds) - len(self._failed),
            "failed": self._failed[:3],
            "mean_s": round(sum(self._seconds) / max(len(self._seconds), 1), 3),
            "most_s": round(max(self._seconds, default=0.0), 3),
            "memory_mb": {kind: [round(each, 1) for each in values[::every]] for kind, values in kinds.items()},
            "memory_every_swaps": every,
            "memory_mb_a_swap_later_half": {kind: round(slope(values), 4) for kind, values in kinds.items()},
        }


if __name__ == "__main__":
    main()
