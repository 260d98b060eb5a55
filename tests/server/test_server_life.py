"""Start, warm, drain, end: in processes of their own where a signal or a port is involved."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from live_server import live_server
from ranker_double import RankerDouble
from test_server_limits import until

from depthrank.server import ServerError, serve
from depthrank.server.serve import address_of, bind

GOOD = {"user": "u", "candidates": ["1"]}
SCRIPT = Path(__file__).with_name("serve_double.py")


@contextmanager
def process(port: int = 0) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout
    return running.stdout.readline().strip()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_requests_records_them_and_exits_with_zero(signal_number: signal.Signals) -> None:
    with process() as running, ThreadPoolExecutor(1) as client:
        address = line(running)
        port = int(address.rpartition(":")[2])
        waiting = client.submit(httpx.post, f"{address}/v1/rank", json=GOOD, timeout=30)
        assert line(running) == "entered"
        os.kill(running.pid, signal_number)
        until(lambda: not accepts(port))
        assert running.poll() is None and not waiting.done()
        assert running.stdin
        running.stdin.write("go\n")
        running.stdin.flush()
        assert waiting.result().status_code == 200
        assert line(running) == "recorded 1"
        assert running.wait(20) == 0


def test_a_taken_port_is_one_readable_line_and_an_exit_above_zero() -> None:
    with bind("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        with process(port) as running:
            _, said = running.communicate(timeout=30)
            assert running.returncode == 1
    assert said.count("\n") == 1
    assert f"127.0.0.1:{port}" in said and "taken" in said and f"--port {port + 1}" in said


def test_a_taken_port_is_told_before_the_artifact_is_looked_at(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as holder, pytest.raises(ServerError, match="taken"):
        serve(str(tmp_path / "no artifact"), port=holder.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("127.0.0.1", 70_000, "cannot listen"),
        ("203.0.113.7", 0, "no such address"),
        ("no.such.host.invalid", 0, "cannot listen"),
    ],
)
def test_an_impossible_address_is_one_readable_line(host: str, port: int, said: str) -> None:
    with pytest.raises(ServerError, match=said) as caught:
        bind(host, port).close()
    assert "\n" not in str(caught.value)


def test_addresses_are_told_as_people_open_them() -> None:
    with bind("127.0.0.1", 0) as four:
        assert address_of(four).startswith("http://127.0.0.1:")


def test_ready_only_when_warm() -> None:
    ranker = RankerDouble()
    ranker.warm_gate.clear()
    with live_server(ranker) as live:
        assert live.client.get("/health/live").status_code == 200
        cold = live.client.get("/health/ready")
        assert (cold.status_code, cold.json()["error"]["message"]) == (503, "the server is warming")
        assert live.metric("depthrank_ready") == 0
        ranker.warm_gate.set()
        until(lambda: live.client.get("/health/ready").status_code == 200)
        assert live.metric("depthrank_ready") == 1


def test_a_server_that_cannot_warm_up_stays_unready_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Cold(RankerDouble):
        def warm(self) -> None:
            raise RuntimeError("no kernel")

    with live_server(Cold()) as live:
        until(lambda: "failed" in live.client.get("/health/ready").text)
    assert "warming up failed" in caplog.text
