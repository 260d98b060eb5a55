"""kill -9 of the writer at random moments: nothing acknowledged is lost, nothing is torn."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from depthrank.events import EventBatch, EventLog, open_log

KILLS = int(os.environ.get("DEPTHRANK_KILLS", "15"))
WRITER = """
import random, sys, threading, numpy as np
from depthrank.events import EventBatch
from depthrank.events.on_lmdb import LmdbEventLog

path, durable, seed = sys.argv[1], sys.argv[2] == "durable", int(sys.argv[3])
log = LmdbEventLog(path, durable=durable, map_bytes=1 << 20)  # small: killed while growing too
say = threading.Lock()

def write(thread):
    rng = random.Random(seed * 10 + thread)
    for n in range(10**9):
        count = rng.choice([1, 1, 1, 5, 300])
        ids = [f"{seed}-{thread}-{n}-{k}" for k in range(count)]
        users = [f"u{rng.randrange(20)}" for _ in ids]
        times = np.array([rng.randrange(10**6) for _ in ids])
        log.append(EventBatch(users, [f"i{rng.randrange(50)}" for _ in ids], ["click"] * count, times, event_id=ids))
        if thread == 0 and n % 7 == 6:
            log.erase(f"u{rng.randrange(20)}") if erasing else None
        with say:
            sys.stdout.write(" ".join(ids) + "\\n")
            sys.stdout.flush()

erasing = sys.argv[4] == "erasing"
for thread in range(2):
    threading.Thread(target=write, args=(thread,)).start()
"""


@contextmanager
def running(script: str, *arguments: str) -> Iterator[IO[str]]:
    """What a process prints, which is killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def kill_a_writer(path: Path, seed: int, durable: bool, erasing: bool, rng: random.Random) -> set[str]:
    """Start a writer, kill it at a random moment, and return the event ids it acknowledged."""
    arguments = [str(path), "durable" if durable else "relaxed", str(seed), "erasing" if erasing else "only appending"]
    with running(WRITER, *arguments) as answers:
        lines = [answers.readline() for _ in range(rng.randrange(1, 40))]
    lines += answers.readlines()
    answers.close()
    whole = [line for line in lines if line.endswith("\n")]
    return {event_id for line in whole for event_id in line.split()}


def stored_ids(log: EventLog) -> list[str]:
    return [event_id for batch in log.scan() for event_id in batch.event_id or () if event_id is not None]


@pytest.mark.parametrize(("durable", "kills"), [(True, KILLS), (False, KILLS // 3)])
def test_killing_the_writer_loses_nothing_acknowledged_and_tears_nothing(tmp_path, durable, kills):
    rng, acknowledged = random.Random(7), set[str]()
    for seed in range(kills):
        acknowledged |= kill_a_writer(tmp_path / "log", seed, durable, False, rng)
        with open_log(f"{tmp_path}/log") as log:
            report = log.verify()
            stored = stored_ids(log)
            assert report.problems == ()
            assert acknowledged <= set(stored) and len(stored) == len(set(stored)) == report.events
            positions = [p for batch in log.scan() for p in batch.log_position.tolist()]
            assert positions == list(range(len(stored))), "positions are contiguous"
    assert len(acknowledged) > 10 * kills, "the writers got to work"


def test_killing_a_writer_that_also_erases_leaves_one_whole_generation(tmp_path):
    rng = random.Random(8)
    for seed in range(KILLS // 3):
        kill_a_writer(tmp_path / "log", seed, True, True, rng)
        with open_log(f"{tmp_path}/log") as log:
            assert log.verify().problems == ()
            assert len(list((tmp_path / "log").glob("generation-*"))) == 1


ERASER = """
import sys
from depthrank.events import open_log
log = open_log(sys.argv[1])
for n in range(10**9):
    log.erase(f"gone{n % 200}")
    print(n, flush=True)
"""


def test_an_eraser_killed_at_any_moment_costs_another_process_no_event(tmp_path):
    rng, appended = random.Random(10), 0
    with open_log(f"{tmp_path}/log", durable=False) as log:
        for _ in range(KILLS // 3):
            log.append(EventBatch([f"gone{n}" for n in range(200)], ["i"] * 200, ["click"] * 200, np.arange(200)))
            with running(ERASER, log.url) as erased:
                erased.readline()
                for n in range(rng.randrange(30)):
                    log.append(EventBatch(["stays"], [f"i{n}"], ["click"], np.array([n])))
                    appended += 1
            erased.close()
            log.append(EventBatch(["stays"], ["last"], ["click"], np.array([99])))
            appended += 1
            assert len(log.history("stays", 10**13, 10**6)) == appended
            assert log.verify().problems == ()


UPSERTER = """
import sys
from depthrank.events import open_log
log = open_log(sys.argv[1])
while True:
    number = log.append_upsert(b"columns" * 1000)
    print(number, flush=True)
"""


def test_killing_the_writer_loses_no_acknowledged_upsert(tmp_path):
    rng, acknowledged = random.Random(11), -1
    for _ in range(KILLS // 3):
        with running(UPSERTER, f"{tmp_path}/log") as answers:
            lines = [answers.readline() for _ in range(rng.randrange(1, 40))]
        lines += answers.readlines()
        answers.close()
        acknowledged = max(acknowledged, *(int(line) for line in lines if line.endswith("\n")))
        with open_log(f"{tmp_path}/log") as log:
            assert log.verify().problems == ()
            assert [number for number, _ in log.upserts()][: acknowledged + 1] == list(range(acknowledged + 1))


def test_the_check_can_fail(tmp_path):
    rng = random.Random(9)
    acknowledged = kill_a_writer(tmp_path / "log", 0, True, False, rng)
    with open_log(f"{tmp_path}/log") as log:
        log.erase("u0")  # stands for a lost page
        assert not acknowledged <= set(stored_ids(log))
