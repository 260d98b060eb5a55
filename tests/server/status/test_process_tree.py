"""CPU and memory of the server's processes together."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from live_server import Live

from depthrank.server.status.process_tree import PROC, cpu_s_of_tree, process_tree

pytestmark = pytest.mark.skipif(not PROC.is_dir(), reason="there is no /proc")


def test_a_tree_holds_a_process_and_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(process_tree(os.getpid()))
        child.communicate(b"\n")
    assert child.pid not in process_tree(os.getpid())


def test_what_a_child_used_still_counts_when_it_has_ended() -> None:
    before = cpu_s_of_tree(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    after = cpu_s_of_tree(os.getpid())
    assert before is not None and after is not None and after > before


def test_a_process_that_is_gone_counts_nothing() -> None:
    assert cpu_s_of_tree(2**22 + 1) == 0.0


def test_the_metrics_hold_them(live: Live) -> None:
    assert live.metric("depthrank_cpu_seconds_total") > 0
    assert live.metric("depthrank_processes") >= 1
    assert live.metric("depthrank_resident_bytes") > 1e6
