"""The sync comes before the acknowledgement: asserted from the system calls, as killing a process cannot show it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

APPENDS = 5
WRITER = """
import os, sys, numpy as np
from depthrank.events import EventBatch, open_log
log = open_log(sys.argv[1], durable=sys.argv[2] == "durable")
for n in range(5):
    if n % 2:
        log.append_upsert(b"columns")
    else:
        log.append(EventBatch(["u"], ["i"], ["click"], np.array([n])))
    os.write(1, b"acknowledged\\n")
"""
DATA_WRITE = re.compile(r"\b(?:pwrite64|pwritev|write|writev)\(\d+<[^>]*data\.mdb>.*= \d+")
DATA_SYNC = re.compile(r"\b(?:fsync|fdatasync|msync)\((?:\d+<[^>]*data\.mdb>|0x).*= 0")
ACKNOWLEDGED = re.compile(r"\bwrite\(1<.*acknowledged")
OPENED_SYNCED = re.compile(r"openat\(.*data\.mdb.*O_D?SYNC.*= (\d+)<")


def unsynced_at_acknowledgements(trace: str) -> list[int]:
    """How many writes to the data file no sync had followed, at each acknowledgement."""
    synced_descriptors = {match.group(1) for match in OPENED_SYNCED.finditer(trace)}
    unsynced, found = 0, []
    for line in trace.splitlines():
        if ACKNOWLEDGED.search(line):
            found.append(unsynced)
        elif DATA_SYNC.search(line):
            unsynced = 0
        elif DATA_WRITE.search(line):
            descriptor = re.search(r"\((\d+)<", line)
            assert descriptor is not None
            unsynced += descriptor.group(1) not in synced_descriptors
    return found


def traced(tmp_path: Path, mode: str) -> list[int]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (apt install strace)")
    out = tmp_path / "trace"
    calls = "trace=openat,write,writev,pwrite64,pwritev,fsync,fdatasync,msync"
    command = [
        "strace",
        "-f",
        "-y",
        "-e",
        calls,
        "-o",
        str(out),
        sys.executable,
        "-c",
        WRITER,
        str(tmp_path / "log"),
        mode,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    trace = out.read_text()
    assert DATA_WRITE.search(trace), "the trace shows the log's writes"
    return unsynced_at_acknowledgements(trace)


def test_a_durable_append_is_acknowledged_after_everything_it_wrote_is_synced(tmp_path):
    assert traced(tmp_path, "durable") == [0] * APPENDS


def test_a_relaxed_append_is_not_so_the_check_can_fail(tmp_path):
    found = traced(tmp_path, "relaxed")
    assert len(found) == APPENDS and all(unsynced > 0 for unsynced in found)
    assert all(unsynced == 1 for unsynced in found), "only the commit record waits; its data is synced"


def test_the_trace_reader_knows_a_sync_that_comes_too_late():
    late = "pwrite64(5</x/data.mdb>, 8) = 8\nwrite(1<pipe>, acknowledged) = 1\nfdatasync(5</x/data.mdb>) = 0\n"
    assert unsynced_at_acknowledgements(late) == [1]
