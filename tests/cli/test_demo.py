"""The demo from beginning to end, on a small wheel; CI runs it on the real one."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from small_films import write_wheel

START = """
import sys
import depthrank.cli.movielens as movielens
movielens.SHA256 = sys.argv.pop(1)
movielens.SPEC = movielens.SPEC.replace("epochs: 6", "epochs: 1")
from depthrank.cli import main
main()
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The demo with a small wheel in the cache in place of the real one."""
    wheel = tmp_path / "cache" / "depthrank" / "recbole-1.2.1-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    digest = hashlib.sha256(write_wheel(wheel).read_bytes()).hexdigest()
    return [sys.executable, "-c", START, digest, "demo", "--port", "0"]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def test_it_shows_terms_trains_ranks_reacts_to_an_event_and_ends(command: list[str], tmp_path: Path) -> None:
    for _ in range(2):  # and again over what the first run left
        done = subprocess.run(
            [*command, "--no-serve"], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout
        assert "Harper and" in said and "do not redistribute" in said
        assert "the same request over HTTP, in the same order" in said
        assert re.search(r"posted to the running server: person 1 watched and liked 'Film \d+", said)
        assert re.search(r"[1-9]\d* of the first 50 places changed", said)
    made = {p.name for p in (tmp_path / "demo").iterdir()}
    assert {"artifact", "events", "ranking.yaml"} <= made
    assert {p.name for p in tmp_path.iterdir()} == {"cache", "demo"}


def test_it_leaves_a_server_running_until_it_is_told_to_stop(command: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = None
        for line in process.stdout:
            if found := re.search(r"keeps running at (http://\S+)", line):
                address = found[1]
                break
        assert address is not None, process.stderr.read() if process.stderr else ""
        assert httpx.get(f"{address}/health/ready").status_code == 200
        assert httpx.get(address).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health/live")
