"""What a second engine process gives: `serve --workers 2` against `--workers 1`, beside two bare engines against one.

    python benchmarks/bench_workers.py [--world FOLDER] [--seconds 6] [--rounds 4] [--json F]     (two minutes)

A made-up marketplace (``synthetic_world``), 500 candidates and a history of 200 a request, full depth by mode, warm
user states, one torch thread a process. Bare: processes that load the same artifact and rank the same decoded requests
in a loop, alone and two at once: what this machine gives the same engine without HTTP. Served: the front and its engine
processes over HTTP, closed loops of two connections an engine from one client process, so that no engine waits for its
next request. The four phases run in turn, several rounds; scaling is the median over rounds of two against one of the
same round. The front and the client need CPU beside two engines on two cores: their share is told (``beside``), as
CPU seconds of everything that is no engine, a request.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

import synthetic_world
from depthrank.cli.served_artifact import free_port, served_artifact
from machine_facts import machine_facts, show_facts, write_json
from served_artifact_client import KeepAliveClient

CANDIDATES = 500
USERS = 16
CONNECTIONS_AN_ENGINE = 2
WARM_S = 1.0


def bodies() -> list[bytes]:
    """One request a user, as it is sent."""
    found = []
    for body in list(synthetic_world.request_bodies(10))[:USERS]:
        columns = {name: values[:CANDIDATES] for name, values in body["candidates"].items()}
        found.append(msgspec.json.encode(body | {"candidates": columns, "mode": "full"}))
    return found


def build(folder: Path) -> None:
    """The artifact and its log, with the weights it starts from."""
    from depthrank.training import train

    spec = synthetic_world.write_world(folder, "small")
    spec.write_text(spec.read_text().replace("epochs: 1", "epochs: 0"), encoding="utf-8")
    train(spec, log=f"lmdb:{folder / 'events'}", out=folder / "artifact", progress=False)


def bare_engine(pipe: Connection, folder: Path) -> None:
    """Rank in a loop for as long as the pipe says, and say how many were ranked and what CPU that took."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from depthrank.cli.threads import set_torch_threads
    from depthrank.engine import Ranker
    from depthrank.schema.wire import decode_request

    set_torch_threads(1)
    ranker = Ranker.load(folder / "artifact", f"lmdb:{folder / 'events'}")
    requests = [decode_request(body, ranker.limits) for body in bodies()]
    for request in requests:
        ranker.rank(request)
    pipe.send("ready")
    while (seconds := pipe.recv()) is not None:
        until, ranked, cpu_s = time.perf_counter() + seconds, 0, time.process_time()
        while time.perf_counter() < until:
            ranker.rank(requests[ranked % len(requests)])
            ranked += 1
        pipe.send((ranked, time.process_time() - cpu_s))
    ranker.close()


class Bare:
    """Engine processes of the benchmark's own."""

    def __init__(self, folder: Path, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for _ in range(number):
            here, there = context.Pipe()
            process = context.Process(target=bare_engine, args=(there, folder), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)
        for pipe in self._pipes:
            assert pipe.recv() == "ready"

    def rate(self, number: int, seconds: float) -> dict[str, float]:
        """Requests a second of so many at once."""
        for pipe in self._pipes[:number]:
            pipe.send(seconds)
        told = [pipe.recv() for pipe in self._pipes[:number]]
        ranked = sum(count for count, _ in told)
        return {"a_second": ranked / seconds, "engine_cpu_ms": 1e3 * sum(cpu for _, cpu in told) / max(1, ranked)}

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()


def served_rate(address: str, engines: int, sent: Sequence[bytes], seconds: float) -> dict[str, float]:
    """Requests a second of a server under closed loops, and how many answers were degraded."""
    until = [0.0]
    counts = [0] * (engines * CONNECTIONS_AN_ENGINE)
    degraded = [0] * len(counts)

    def run(number: int) -> None:
        client, k = KeepAliveClient(address), number
        while time.perf_counter() < until[0]:
            answer = client.ask("POST", "/v1/rank", sent[k % len(sent)])
            counts[number] += 1
            degraded[number] += bool(json.loads(answer)["degraded"]["is"])
            k += len(counts)
        client.socket.close()

    started, until[0] = time.perf_counter(), time.perf_counter() + seconds
    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"a_second": sum(counts) / (time.perf_counter() - started), "degraded": float(sum(degraded))}


def cpu_of_children(pid: int) -> tuple[float, float]:
    """CPU seconds so far of a server's front, and of the processes below it."""
    ticks = os.sysconf("SC_CLK_TCK")

    def spent(process: str) -> float:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    below = [path.name for path in Path("/proc").iterdir() if path.name.isdigit() and _parent(path.name) == str(pid)]
    return spent(str(pid)), sum(map(spent, below))


def _parent(process: str) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""


def measure(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """All four phases, in turn."""
    artifact, log, sent = folder / "artifact", f"lmdb:{folder / 'events'}", bodies()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("bare 1", "bare 2", "served 1", "served 2")}
    bare = Bare(folder, 2)
    with (
        served_artifact(artifact, log, free_port(), workers=1) as one,
        served_artifact(artifact, log, free_port(), workers=2) as two,
    ):
        servers = {1: one, 2: two}
        for number in range(-1, rounds):
            for engines, server in servers.items():
                rate = bare.rate(engines, seconds if number >= 0 else WARM_S)
                front, below = cpu_of_children(server.process.pid)
                own = time.process_time()
                served = served_rate(server.address, engines, sent, seconds if number >= 0 else WARM_S)
                front_after, below_after = cpu_of_children(server.process.pid)
                answered = max(1.0, served["a_second"] * seconds)
                served |= {
                    "engine_cpu_ms": 1e3 * (below_after - below) / answered,
                    "front_cpu_ms": 1e3 * (front_after - front) / answered,
                    "client_cpu_ms": 1e3 * (time.process_time() - own) / answered,
                }
                if number >= 0:
                    found[f"bare {engines}"].append(rate)
                    found[f"served {engines}"].append(served)
    bare.close()
    scaling = {
        name: statistics.median(
            b["a_second"] / a["a_second"] for a, b in zip(found[f"{name} 1"], found[f"{name} 2"], strict=True)
        )
        for name in ("bare", "served")
    }
    return {
        "candidates": CANDIDATES,
        "phases": {
            name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()
        },
        "rounds": found,
        "scaling": scaling,
        "served_over_bare": scaling["served"] / scaling["bare"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="where the world was built before, or is to be")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine_facts("depthrank", "torch")
    show_facts(facts)
    with tempfile.TemporaryDirectory() as own:
        folder = options.world or Path(own)
        if not (folder / "artifact").is_dir():
            build(folder)
        found = measure(folder, options.seconds, options.rounds)
    for name, row in found["phases"].items():
        print(f"{name:9}", "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
    print(
        f"two engines against one: bare {found['scaling']['bare']:.2f}, served {found['scaling']['served']:.2f}: "
        f"{found['served_over_bare']:.2f} of it"
    )
    if options.json:
        write_json(options.json, {"machine": facts, **found})


if __name__ == "__main__":
    main()
