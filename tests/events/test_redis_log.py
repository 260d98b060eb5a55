"""What is particular to the log on a server: its durability, restarts, files, memory."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest
import redis

from depthrank.errors import LogError, StorageFullError
from depthrank.events import EventBatch, open_log
from depthrank.events.on_redis.writes import Writes

FAR_MS = 10**13


def one(user: str, item: str, time_ms: int = 1, **columns: object) -> EventBatch:
    return EventBatch([user], [item], ["click"], np.array([time_ms]), **columns)  # type: ignore[arg-type]


def test_a_server_that_does_not_sync_is_refused_with_the_remedy(start_redis):
    server = start_redis("--appendonly", "yes", "--appendfsync", "everysec")
    with pytest.raises(LogError, match=r"has appendfsync everysec\. Run CONFIG SET appendfsync always.*durable=False"):
        open_log(server.url())
    with open_log(server.url(), durable=False) as log:
        assert log.append(one("u", "a")).appended == 1 and not log.stats().durable
    redis.Redis(port=server.port).config_set("appendfsync", "always")
    with open_log(server.url()) as log:
        assert log.stats().durable


def test_a_server_that_evicts_is_refused(start_redis):
    server = start_redis(
        "--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"
    )
    with pytest.raises(LogError, match="maxmemory-policy allkeys-lru"):
        open_log(server.url())


def test_a_server_that_is_down_is_one_clear_error_and_the_log_goes_on_when_it_is_back(start_redis):
    server = start_redis()
    log = open_log(server.url())
    log.append(one("u", "a", event_id=["e1"]))
    server.stop()
    for call in (lambda: log.append(one("u", "b")), lambda: log.history("u", FAR_MS, 9), lambda: log.stats()):
        with pytest.raises(LogError, match=r"cannot reach the event log at redis://127.0.0.1:\d+/0: .*Is the server"):
            call()
    server.start()
    assert log.append(one("u", "b", 2, event_id=["e1"])).duplicates == 1, "what was acknowledged survived the restart"
    assert log.append(one("u", "b", 2)).appended == 1
    assert log.item_ids(log.history("u", FAR_MS, 9).item_code) == ["a", "b"]
    assert log.verify().problems == ()
    log.close()


def test_a_server_that_hangs_costs_one_write_its_patience_and_the_next_ones_nothing(start_redis):
    server = start_redis()
    assert server.process is not None
    with open_log(server.url() + "&timeout_s=0.5") as log:
        log.append(one("u", "a", event_id=["e1"]))
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(LogError, match="may or may not be stored"):
                log.append(one("u", "b", 2, event_id=["e2"]))
            for write in (lambda: log.append(one("u", "c", 3)), lambda: log.append_upsert(b"x")):
                with pytest.raises(LogError, match=r"does not answer: a write waited 0\.5 s in vain"):
                    write()
        finally:
            server.process.send_signal(signal.SIGCONT)
        end = time.monotonic() + 20
        while True:
            try:
                log.append(one("u", "b", 2, event_id=["e2"]))
                break
            except LogError:
                assert time.monotonic() < end, "it goes on when the server does"
                time.sleep(0.02)
        assert log.item_ids(log.history("u", FAR_MS, 9).item_code) == ["a", "b"], "neither lost nor twice"


def test_of_many_writes_to_a_server_that_hung_one_asks_whether_it_is_back():
    now_s = [0.0]
    writes = Writes("redis://127.0.0.1:1/0?timeout_s=2", lambda: now_s[0])

    def ask(error: Exception | None = None) -> str:
        try:
            with writes.asking():
                if error is not None:
                    raise error
        except LogError as told:
            return "refused" if "in vain" in str(told) else "failed"
        return "done"

    assert [ask(), ask(redis.exceptions.TimeoutError("no answer")), ask(), ask()] == [
        "done",
        "failed",
        "refused",
        "refused",
    ]
    now_s[0] = 2.5
    with writes.asking():
        assert [ask(), ask()] == ["refused", "refused"], "one asks, the others wait for what it learns"
    assert [ask(), ask()] == ["done", "done"]
    assert [ask(redis.exceptions.ConnectionError("refused")), ask()] == ["failed", "done"], "a server that is gone"


@pytest.mark.parametrize("given", ["0", "-1", "31", "soon"])
def test_a_timeout_that_is_none_is_refused(given: str):
    with pytest.raises(LogError, match="expected seconds above 0 and at most 30"):
        open_log(f"redis://127.0.0.1:1/0?timeout_s={given}")


def test_a_killed_server_has_lost_nothing_acknowledged(start_redis):
    server = start_redis()
    with open_log(server.url()) as log:
        for n in range(50):
            log.append(one("u", f"i{n}", n))
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        server.start()
        assert log.stats().events == 50 and log.verify().problems == ()


def test_nothing_answers_at_a_wrong_address():
    with pytest.raises(LogError, match=r"cannot reach the event log at redis://127\.0\.0\.1:1/0"):
        open_log("redis://:secret@127.0.0.1:1/0")
    with pytest.raises(LogError, match=r"127.0.0.1:1") as caught:
        open_log("valkey://user:secret@127.0.0.1:1/0")
    assert "secret" not in str(caught.value)


def test_a_future_version_is_refused(start_redis):
    server = start_redis()
    open_log(server.url()).close()
    redis.Redis(port=server.port).hset("depthrank:meta", "version", 2)
    with pytest.raises(LogError, match="version 2; this program reads 1: update depthrank"):
        open_log(server.url())


def test_keys_of_something_else_are_not_a_log(start_redis):
    server = start_redis()
    client = redis.Redis(port=server.port)
    client.set("depthrank:meta", "x")
    with pytest.raises(LogError, match="WRONGTYPE"):
        open_log(server.url())
    client.hset("mine:meta", "a", "b")
    with pytest.raises(LogError, match="is not an event log; choose another"):
        open_log(server.url("mine"))


def test_a_broken_off_restore_is_refused(start_redis):
    server = start_redis()
    open_log(server.url()).close()
    redis.Redis(port=server.port).hset("depthrank:meta", "restoring", 1)
    with pytest.raises(LogError, match="broke off; delete the keys"):
        open_log(server.url())


def test_max_bytes_is_refused_as_the_server_has_its_own(start_redis):
    with pytest.raises(LogError, match="set maxmemory"):
        open_log(start_redis().url(), max_bytes=1)


def test_a_server_at_its_memory_limit_appends_nothing_and_goes_on_later(start_redis):
    server = start_redis()
    client = redis.Redis(port=server.port)
    with open_log(server.url()) as log:
        log.append(one("u", "a"))
        client.config_set("maxmemory", "1mb")
        with pytest.raises(StorageFullError, match="is at its maxmemory; nothing was appended"):
            log.append(one("u", "b"))
        with pytest.raises(StorageFullError, match="is at its maxmemory"):
            log.append_upsert(b"columns")
        assert list(log.upserts()) == [] and log.position() == 0 and len(log.history("u", FAR_MS, 9)) == 1
        client.config_set("maxmemory", "0")
        assert log.append(one("u", "b")).appended == 1


def test_no_file_of_the_server_holds_a_byte_of_an_erased_user(start_redis):
    server = start_redis()
    with open_log(server.url()) as log:
        log.append(one("u", "a"))
        mark = {"event_id": ["gnu-event"], "request_id": ["kudu-request"], "extra": [b"eland-extra"]}
        log.append(one("zebra", "quagga", **mark))
        redis.Redis(port=server.port).save()
        needles = [b"zebra", b"quagga", b"gnu-event", b"kudu-request", b"eland-extra"]
        assert all(_holds(server.folder, needle) for needle in needles), "the search can find them"
        assert list(server.folder.rglob("*.rdb")) and list(server.folder.rglob("*.aof"))
        assert log.erase("zebra").events == 1
        end = time.monotonic() + 10  # the server unlinks its old files in a thread of its own
        while any(_holds(server.folder, needle) for needle in needles) and time.monotonic() < end:
            time.sleep(0.02)
        assert not any(_holds(server.folder, needle) for needle in needles)
        assert len(log.history("u", FAR_MS, 9)) == 1


def _holds(folder: Path, needle: bytes) -> bool:
    found = False
    for path in folder.rglob("*"):
        try:
            found |= path.is_file() and needle in path.read_bytes()
        except FileNotFoundError:  # unlinked meanwhile
            continue
    return found


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda c: c.append("depthrank:h:u", bytes(32)), "the head says"),
        (lambda c: c.setrange("depthrank:h:u", 24, b"\7"), "the log and the user's rows differ"),
        (lambda c: c.hdel("depthrank:log:0", 0), "is not in the log"),
        (lambda c: c.delete("depthrank:event_ids"), "its event id is not indexed"),
        (lambda c: c.hset("depthrank:items", "b", 7), "items: codes and ids disagree"),
    ],
)
def test_verify_tells_what_is_wrong(start_redis, tamper, message):
    server = start_redis()
    with open_log(server.url()) as log:
        log.append(one("u", "a", event_id=["e"]))
        assert log.verify().ok
        tamper(redis.Redis(port=server.port))
        assert any(message in problem for problem in log.verify().problems)
