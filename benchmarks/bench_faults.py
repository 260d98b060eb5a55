"""Faults in a loop: kill -9 under writes, restarts, and a mixed load that something hurts every few seconds.

    python benchmarks/bench_faults.py [--artifact demo/artifact] [--events demo/events] [--kills 100] [--minutes 1.5]
                                      [--every-s 5] [--pause-ms 0] [--only kills|mixed] [--json F]

Kills: four writers append events with event ids; the server is killed with SIGKILL at a random moment; what was
acknowledged must be in the log, which must verify. Servers are forked from a process that has imported everything, so
that a hundred starts take a minute; restart to ready is measured apart, with ``depthrank serve`` from nothing. Mixed:
ranks, events and model switches, while the disk fills and empties, clients leave within their body or send 50,000
candidates; at the end every acknowledged event must be there, once. The issue's figure is --minutes 30 --every-s 20;
the default takes 4 minutes.
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from depthrank.events import open_log
from machine_facts import machine_facts
from served_versions import Nursery, Server, memory_kinds, model_folder, slope, wait_for, write_result

PATIENCE_S = 600  # of clients: on a shared core a load takes minutes; how long it took is in the result
WRITERS = 4
RESTARTS = 3


def main() -> None:
    """Measure and print; exits with 1 where something acknowledged was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, default=Path("demo/artifact"))
    parser.add_argument("--events", type=Path, default=Path("demo/events"))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kill-s", type=float, default=110.0, help="end the kills after so many seconds")
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--every-s", type=float, default=5.0)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="of each mixed client between two requests")
    parser.add_argument("--only", choices=("kills", "mixed"), help="one of the parts, by default all")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    nursery = Nursery()
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = model_folder(wanted.artifact, wanted.events, Path(place) / "models")
            result: dict[str, Any] = {"machine": machine_facts("depthrank", "lmdb")}
            if wanted.only != "mixed":
                result["restart_to_ready_s"] = restarts(folder)
                result["kills"] = Kills(nursery, folder).run(wanted.kills, wanted.kill_s)
            if wanted.only != "kills":
                mixed = Mixed(nursery, folder, wanted.pause_ms / 1e3)
                result["mixed"] = mixed.run(wanted.minutes * 60, wanted.every_s)
    finally:
        nursery.stop()
    write_result(result, wanted.json)
    sys.exit(any(result[part]["lost"] for part in ("kills", "mixed") if part in result))


def restarts(folder: Path) -> dict[str, float]:
    """``depthrank serve`` from nothing until /health/ready is 200."""
    taken = []
    for _ in range(RESTARTS):
        started = time.monotonic()
        command = [sys.executable, "-m", "depthrank.cli", "serve", str(folder / "v1"), "--port", "0"]
        command += ["--log", f"lmdb:{folder / 'events'}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            wait_for(lambda at=address: httpx.get(f"{at}/health/ready").status_code == 200)
            taken.append(time.monotonic() - started)
        finally:
            process.kill()
            process.wait()
    return {"median": round(statistics.median(taken), 2), "most": round(max(taken), 2)}


class Writer:
    """Appends events one by one, with ``pause_s`` between them; ``acknowledged`` counts them, so the ids are known."""

    def __init__(self, name: str, pause_s: float = 0.0) -> None:
        self.name, self.pause_s, self.acknowledged = name, pause_s, 0
        self.refused: Counter[int] = Counter()
        self.stop = threading.Event()

    def run(self, server: Server) -> None:
        """Until the server is gone, or it is told to stop; what was refused is sent again."""
        with httpx.Client(base_url=server.client.base_url, timeout=PATIENCE_S) as client:
            while not self.stop.wait(self.pause_s):
                body = {
                    "user": self.name,
                    "item": "1",
                    "action": "click",
                    "event_id": f"{self.name}/{self.acknowledged}",
                }
                try:
                    answer = client.post("/v1/events", json=body)
                except httpx.TransportError:
                    return
                if answer.status_code == 200:
                    self.acknowledged += 1
                else:
                    self.refused[answer.status_code] += 1


def missing(log: str, writers: list[Writer]) -> tuple[int, int]:
    """Acknowledged events that the log does not hold, and those that it holds more than once."""
    seen: Counter[str] = Counter()
    with open_log(log, read_only=True) as opened:
        assert opened.verify().ok
        for batch in opened.scan():
            seen.update(i for i in batch.event_id or () if i is not None and i.startswith("writer"))
    wanted = [f"{writer.name}/{n}" for writer in writers for n in range(writer.acknowledged)]
    return sum(seen[i] == 0 for i in wanted), sum(count > 1 for count in seen.values())


class Kills:
    """kill -9 under writes, again and again."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self._nursery, self._artifact, self._log = nursery, folder / "v1", f"lmdb:{folder / 'events'}"

    def run(self, kills: int, most_s: float) -> dict[str, Any]:
        """What was lost (0) after that many kills, or as many as fit into ``most_s``."""
        chance, writers = random.Random(0), [Writer(f"writer{n}") for n in range(WRITERS)]
        end, done, ready_s = time.monotonic() + most_s, 0, []
        while done < kills and time.monotonic() < end:
            started = time.monotonic()
            with self._nursery.running(self._artifact, self._log) as server:
                ready_s.append(time.monotonic() - started)
                threads = [threading.Thread(target=writer.run, args=(server,)) for writer in writers]
                before = sum(writer.acknowledged for writer in writers)
                for thread in threads:
                    thread.start()
                wait_for(lambda n=before: sum(writer.acknowledged for writer in writers) > n)  # so it is amid writes
                time.sleep(chance.uniform(0.0, 0.3))
                server.kill()
                for thread in threads:
                    thread.join()
            done += 1
        lost, twice = missing(self._log, writers)
        acknowledged = sum(writer.acknowledged for writer in writers)
        return {"kills": done, "acknowledged": acknowledged, "lost": lost, "twice": twice} | {
            "forked_start_to_ready_s": round(statistics.median(ready_s), 3)
        }


class Mixed:
    """Ranks, writes and switches while faults come and go."""

    def __init__(self, nursery: Nursery, folder: Path, pause_s: float) -> None:
        self._nursery, self._folder, self._log = nursery, folder, f"lmdb:{folder / 'events'}"
        self._pause_s = pause_s
        self._answers: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._switch_s: list[float] = []
        self._stop = threading.Event()

    def run(self, seconds: float, every_s: float) -> dict[str, Any]:
        """What users saw, what was lost, and the slope of memory."""
        writers = [Writer(f"writer-mixed{n}", self._pause_s) for n in range(2)]
        settings = {"models": {"manage": True, "keep_previous": False}}
        with self._nursery.running(self._folder / "v1", self._log, settings=settings) as server:
            work: list[Callable[[], None]] = [lambda w=w: w.run(server) for w in writers]  # type: ignore[misc]
            work += [lambda n=n: self._ask(server, n) for n in range(2)]  # type: ignore[misc]
            threads = [threading.Thread(target=call) for call in work]
            for thread in threads:
                thread.start()
            memory_mb = self._hurt(server, seconds, every_s)
            self._stop.set()
            for writer in writers:
                writer.stop.set()
            for thread in threads:
                thread.join()
        lost, twice = missing(self._log, writers)
        refused = sum((writer.refused for writer in writers), Counter[int]())
        return {
            "seconds": seconds,
            "faults": dict(self._faults),
            "switch_s": {"mean": round(statistics.mean(self._switch_s), 2), "most": round(max(self._switch_s), 2)}
            if self._switch_s
            else None,
            "answers": dict(self._answers),
            "acknowledged": sum(writer.acknowledged for writer in writers),
            "refused": {str(status): count for status, count in refused.items()},
            "lost": lost,
            "twice": twice,
            "every_s": every_s,
            "memory_mb": {kind: [round(each[kind], 1) for each in memory_mb] for kind in memory_mb[0]},
            "memory_mb_a_minute_later_half": {
                kind: round(slope([each[kind] for each in memory_mb]) * 60 / every_s, 3) for kind in memory_mb[0]
            },
        }

    def _ask(self, server: Server, number: int) -> None:
        body = {"user": f"{number}", "candidates": [str(n) for n in range(1, 301)], "deadline_ms": 1_000}
        with httpx.Client(base_url=server.client.base_url, timeout=PATIENCE_S) as client:
            while not self._stop.wait(self._pause_s):
                try:
                    answer = client.post("/v1/rank", json=body)
                except httpx.TransportError as error:
                    self._answers[f"no answer: {type(error).__name__}"] += 1
                    continue
                named = answer.json().get("model", "none") if answer.status_code == 200 else "none"
                self._answers[f"{answer.status_code} by {named}"] += 1

    def _hurt(self, server: Server, seconds: float, every_s: float) -> list[dict[str, float]]:
        """One fault after the other; memory after each, that of mapped files (the event log grows) apart."""
        faults = [self._disk_full, self._vanishing, self._huge, self._switch, self._erase]
        memory_mb, end, number = [memory_kinds(server.pid)], time.monotonic() + seconds, 0
        while time.monotonic() < end:
            fault = faults[number % len(faults)]
            self._faults[fault.__name__.strip("_")] += 1
            fault(server, number)
            number += 1
            time.sleep(every_s)
            memory_mb.append(memory_kinds(server.pid))
        return memory_mb

    def _disk_full(self, server: Server, number: int) -> None:
        server.limit_files(4_096)
        time.sleep(1)
        server.limit_files(None)

    def _vanishing(self, server: Server, number: int) -> None:
        at = (str(server.client.base_url.host), int(server.client.base_url.port or 80))
        for _ in range(20):
            with socket.create_connection(at) as half:
                half.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")

    def _huge(self, server: Server, number: int) -> None:
        body = {"user": "huge", "candidates": [str(n) for n in range(50_000)], "deadline_ms": 2_000}
        answer = server.client.post("/v1/rank", json=body, timeout=PATIENCE_S)
        self._answers[f"{answer.status_code} with 50,000 candidates"] += 1

    def _switch(self, server: Server, number: int) -> None:
        for path in ("v2", "v1"):
            body, started = {"action": "load", "path": path, "label": "stable"}, time.monotonic()
            answer = server.client.post("/v1/models", json=body, timeout=PATIENCE_S)
            self._switch_s.append(time.monotonic() - started)
            self._faults[f"switch {answer.status_code}"] += 1

    def _erase(self, server: Server, number: int) -> None:
        server.client.post("/v1/events", json={"user": "gone", "item": "1", "action": "click"})
        self._faults[f"erase {server.client.delete('/v1/users/gone', timeout=PATIENCE_S).status_code}"] += 1


if __name__ == "__main__":
    main()
