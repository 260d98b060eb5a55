"""Does `depthrank bench` measure what wrk measures? Servers whose truth is known, both tools, one process each.

1. Latency: a server that answers after 20 ms, whatever the load. Both tools must say so: wrk with 8 connections (a
   closed loop), bench at the rate that wrk reached.
2. Capacity: a server that answers one request after another, 4 ms each. wrk's throughput with 8 connections is the
   capacity; bench finds it by `--ramp`, with a limit of 100 ms.
3. A stall: the same server stops once for 1 s. wrk's connections wait with it and send nothing; it fills in what it
   did not send by the mean gap between its requests. bench has sent them, and counts what they saw.

    python benchmarks/bench_load_tool.py [--json F]      (a minute and a half; wrk: apt-get install wrk)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httptools

from depthrank.cli.load import Arrivals, Load, find_knee, run_load
from machine_facts import machine_facts

BODY = b'{"items":[{"item":"1","level":1}],"degraded":{"is":false,"reasons":[]}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
SECONDS = 6.0
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class KnownServer(asyncio.Protocol):
    """Answers after ``delay_s``; ``serial``: one request after another; stalls once, at ``stall_at``, for a second."""

    delay_s, serial, stall_at = 0.0, False, 0.0
    free_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        loop, now, kind = asyncio.get_running_loop(), time.perf_counter(), type(self)
        begin = max(now, kind.free_at) if kind.serial else now
        if kind.stall_at and now > kind.stall_at:
            begin, kind.stall_at = begin + 1.0, 0.0
        kind.free_at = begin + kind.delay_s
        loop.call_later(kind.free_at - now, self._transport.write, ANSWER)


def serve(pipe: Connection, delay_s: float, serial: bool, stall_in_s: float) -> None:
    KnownServer.delay_s, KnownServer.serial = delay_s, serial

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(KnownServer, "127.0.0.1", 0)
        KnownServer.stall_at = time.perf_counter() + stall_in_s if stall_in_s else 0.0
        pipe.send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()

    asyncio.run(run())


class Known:
    """A server process, for a with-statement; gives its address."""

    def __init__(self, delay_ms: float, serial: bool = False, stall_in_s: float = 0.0) -> None:
        self._arguments = (delay_ms / 1e3, serial, stall_in_s)

    def __enter__(self) -> str:
        here, there = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=serve, args=(there, *self._arguments), daemon=True)
        self._process.start()
        return str(here.recv())

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()


def wrk(address: str, connections: int) -> dict[str, float]:
    """Requests a second and latencies in ms, as wrk says them."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS:.0f}s", "--latency", address]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = {f"p{p}_ms": float(v) * UNITS[u] for p, v, u in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)\b", said)}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate is not None, said
    return {"rps": float(rate[1]), **found}


def ours(address: str, rate: float, limit_ms: float | None = None) -> dict[str, Any]:
    load = Load(limit_ms=limit_ms, warm_up_s=0.5)
    return run_load(address, [{}], Arrivals(rate, SECONDS, seed=1), load).figures()


def latency() -> dict[str, Any]:
    with Known(20.0) as address:
        theirs = wrk(address, 8)
        own = ours(address, theirs["rps"])
    return {"truth_ms": 20.0, "wrk": theirs, "bench": own, "p50_ratio": own["p50_ms"] / theirs["p50_ms"]}


def capacity() -> dict[str, Any]:
    with Known(4.0, serial=True) as address:
        theirs = wrk(address, 8)
        best, steps = find_knee(lambda rate: ours(address, rate, 100.0), 60.0)
    assert best is not None
    told = [
        {k: step[k] for k in ("offered_rps", "goodput_rps", "p99_ms", "held", "client_lag_p99_ms")} for step in steps
    ]
    ratio = best["goodput_rps"] / theirs["rps"]
    return {"truth_rps": 250.0, "wrk": theirs, "knee_rps": best["goodput_rps"], "ratio": ratio, "steps": told}


def omission() -> dict[str, Any]:
    with Known(4.0, serial=True, stall_in_s=2.0) as address:
        theirs = wrk(address, 4)
    with Known(4.0, serial=True, stall_in_s=3.0) as address:
        own = ours(address, 100.0)
    return {"stall_ms": 1_000.0, "wrk": theirs, "bench": own}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed: apt-get install wrk", file=sys.stderr)
        return 1
    results = {
        "command": "python " + " ".join(sys.argv),
        "machine": machine_facts(),
        "latency": latency(),
        "capacity": capacity(),
        "coordinated_omission": omission(),
    }
    print(json.dumps({k: v for k, v in results.items() if k != "machine"}, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
