"""What is particular to the log in a folder: its files, growth, full disks, damage, other processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from depthrank.errors import LogError, StorageFullError
from depthrank.events import EventBatch, EventLog, open_log
from depthrank.events.on_lmdb import LmdbEventLog, compact, folder
from depthrank.events.on_lmdb.generation import GenerationClosed

FAR_MS = 10**13


def one(user: str, item: str, time_ms: int = 1) -> EventBatch:
    return EventBatch([user], [item], ["click"], np.array([time_ms]))


def many(count: int, extra_bytes: int = 0) -> EventBatch:
    users, items = [f"u{n % 97}" for n in range(count)], [f"i{n % 31}" for n in range(count)]
    extra = [os.urandom(extra_bytes)] * count if extra_bytes else None
    return EventBatch(users, items, ["click"] * count, np.arange(count), extra=extra)


@contextmanager
def run(script: str, *arguments: str) -> Iterator[Callable[[str], str]]:
    """Another process, which answers each line with a line; ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )

    def ask(line: str) -> str:
        assert process.stdin is not None and process.stdout is not None
        print(line, file=process.stdin)
        return process.stdout.readline()

    with process:
        try:
            yield ask
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
        finally:
            process.kill()


READER = """
    import sys
    from depthrank.events.on_lmdb import LmdbEventLog
    log = LmdbEventLog(sys.argv[1], read_only=True, map_bytes=1 << 20)
    for user in sys.stdin:
        history = log.history(user.strip(), 10**13, 5)
        print(log.item_ids(history.item_code), flush=True)
"""


@pytest.fixture
def ask_reader(tmp_path: Path) -> Iterator[Callable[[str], list[str]]]:
    """A reader in another process, opened when the log holds one event."""
    open_log(f"{tmp_path}/log").append(one("first", "a"))
    with run(READER, f"{tmp_path}/log") as ask:
        assert ask("first") == "['a']\n"
        yield lambda user: json.loads(ask(user).replace("'", '"'))


def test_a_reader_in_another_process_sees_an_append_at_once(tmp_path, ask_reader):
    with open_log(f"{tmp_path}/log") as log:
        for n in range(20):
            log.append(one("u", f"i{n}", n))
            assert ask_reader("u")[-1] == f"i{n}"


def test_a_reader_in_another_process_follows_growth_and_erasure(tmp_path, ask_reader):
    with LmdbEventLog(tmp_path / "log", map_bytes=1 << 20) as log:
        log.append(many(60_000))
        assert ask_reader("u5")[-1] == log.item_ids(log.history("u5", FAR_MS, 1).item_code)[0]
        log.erase("u5")
        assert ask_reader("u5") == []
        log.append(one("u5", "back"))
        assert ask_reader("u5") == ["back"]
        assert ask_reader("first") == ["a"]


def test_a_writer_in_another_process_moves_on_after_an_erasure(tmp_path):
    writer = """
        import sys, numpy as np
        from depthrank.events import EventBatch, open_log
        log = open_log(sys.argv[1])
        for line in sys.stdin:
            print(log.append(EventBatch([line.strip()], ["i"], ["click"], np.array([1]))).appended, flush=True)
    """
    log = open_log(f"{tmp_path}/log")
    with run(writer, f"{tmp_path}/log") as append:
        for n in range(3):
            assert append(f"theirs{n}") == "1\n"
            log.append(one(f"gone{n}", "x"))
            assert log.erase(f"gone{n}").events == 1
        assert append("last") == "1\n"
    assert [u for b in log.scan() for u in b.user] == ["theirs0", "theirs1", "theirs2", "last"]
    assert log.verify().problems == ()
    log.close()


def test_the_map_grows_while_threads_read(tmp_path):
    log = LmdbEventLog(tmp_path / "log", map_bytes=1 << 20)
    log.append(one("u", "a"))
    stop, errors = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                assert len(log.history("u", FAR_MS, 10)) == 1
                stop.wait(0.001)  # leaves the interpreter's lock to the writer
            except BaseException as error:  # noqa: BLE001 - told by the assertion below
                errors.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for piece in many(120_000).pieces(20_000):
        log.append(piece)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == [] and log.stats().events == 120_001
    assert log.stats().bytes_on_disk > 4 << 20, "the map had to grow"
    assert log.verify().problems == ()
    log.close()


def test_a_log_at_its_limit_refuses_stays_readable_and_goes_on_after_retention(tmp_path):
    with open_log(f"{tmp_path}/log", max_bytes=2 << 20) as log:
        log.import_events(many(5_000))
        with pytest.raises(StorageFullError, match=r"at its limit of 2,097,152 bytes; nothing was appended"):
            log.import_events(many(100_000))
        assert log.stats().events == 5_000 and log.verify().problems == ()
        log.import_events(one("small", "fits"))
        with pytest.raises(StorageFullError):
            for _ in range(1000):
                log.import_events(many(1000))
        log.retain(990)
        assert log.append(one("after", "retention")).appended == 1
        assert log.verify().problems == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # a failed test may leave files open


def test_a_full_disk_acknowledges_nothing_and_passes_when_there_is_room(small_disk):
    log = open_log(f"{small_disk}/log")
    log.import_events(many(5_000))
    ballast = small_disk / "ballast"
    _fill(ballast)
    acknowledged = 5_000
    with pytest.raises(StorageFullError, match=r"no room left .* nothing was written"):
        for _ in range(200):
            acknowledged += log.append(many(100)).appended
    assert log.stats().events == acknowledged and len(log.history("u3", FAR_MS, 10)) == 10
    with pytest.raises(StorageFullError, match="no room left"):
        log.erase("u3")
    with pytest.raises(StorageFullError, match="no room left"):
        log.append_upsert(bytes(100_000))
    assert list(log.upserts()) == []
    assert len(log.history("u3", FAR_MS, 10)) == 10, "an erasure that failed changed nothing"
    assert sorted(p.name for p in (small_disk / "log").iterdir()) == ["LOG", "generation-000001", "lock"]
    ballast.unlink()
    assert log.append(many(100)).appended == 100
    assert log.append_upsert(bytes(100_000)) == 0
    assert log.erase("u3").events > 0
    assert log.verify().problems == ()
    log.close()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


class Panicking:
    """An environment whose commit record could not be written: it refuses everything from then on."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def begin(self, **_options: object) -> None:
        raise lmdb.PanicError("mdb_txn_begin: MDB_PANIC")

    def close(self) -> None:
        self._env.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.append(one("u", "b", 2)),
        lambda log: log.history("u", FAR_MS, 9),
        lambda log: log.stats(),
        lambda log: list(log.scan()),
    ],
    ids=["append", "history", "stats", "scan"],
)
def test_an_environment_that_panicked_is_opened_anew_by_whoever_needs_it_next(tmp_path, call):
    with open_log(str(tmp_path / "log")) as log, open_log(str(tmp_path / "log")) as other:
        log.append(one("u", "a"))
        broken = log._current()
        broken.env = Panicking(broken.env)
        call(log)
        assert log._current() is not broken
        other.append(one("u", "z", 3))
        assert other._current() is log._current(), "logs of a process share the new one too"
        items = log.item_ids(log.history("u", FAR_MS, 9).item_code)
        assert (items[0], items[-1]) == ("a", "z")


FLICKER = """
    import resource, sys, threading, time
    import numpy as np
    from depthrank.errors import StorageFullError
    from depthrank.events import EventBatch, open_log

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def flicker():
        while not stop.is_set():
            limit(4096)
            time.sleep(1e-3)
            limit(resource.RLIM_INFINITY)
            time.sleep(1e-3)

    log, stop, acknowledged, refused = open_log(sys.argv[1]), threading.Event(), [], 0
    thread = threading.Thread(target=flicker)
    thread.start()
    while len(acknowledged) < 40 or not refused:
        number = len(acknowledged) + refused
        try:
            log.append(EventBatch(["u"], ["i"], ["click"], np.array([number]), event_id=[f"e{number}"]))
            acknowledged.append(f"e{number}")
        except StorageFullError:
            refused += 1
    stop.set()
    thread.join()
    limit(resource.RLIM_INFINITY)
    held = {i for batch in log.scan() for i in batch.event_id}
    assert log.verify().ok and set(acknowledged) <= held
    print("kept", len(acknowledged))
"""


def test_a_disk_that_is_full_now_and_then_costs_single_appends_and_never_the_log(tmp_path):
    """The commit record fails where the data before it went through: LMDB panics within some dozen appends."""
    script = [sys.executable, "-c", textwrap.dedent(FLICKER), str(tmp_path / "log")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("kept"), done.stderr


def test_a_file_size_limit_is_a_full_disk_too(tmp_path):
    script = """
        import resource, sys, numpy as np
        from depthrank.errors import StorageFullError
        from depthrank.events import EventBatch, open_log
        log = open_log(sys.argv[1])
        limit = 4 << 20
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        acknowledged = 0
        batch = EventBatch([f"u{n}" for n in range(1000)], ["i"] * 1000, ["click"] * 1000, np.arange(1000))
        try:
            while acknowledged < 1_000_000:
                acknowledged += log.append(batch).appended
        except StorageFullError:
            print(acknowledged, log.stats().events, log.verify().problems)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(log.append(batch).appended, log.verify().problems)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), f"{tmp_path}/log"]
    first, second = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    acknowledged, stored, problems = first.split(" ", 2)
    assert 0 < int(acknowledged) == int(stored) and problems == "()"
    assert second == "1000 ()"


# ---------------------------------------------------------------------- erased means gone


def _holds(path: Path, needle: bytes) -> bool:
    return any(needle in p.read_bytes() for p in path.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["zebra", "zebra" * 200])
def test_no_file_of_the_log_holds_a_byte_of_an_erased_user(tmp_path, name):
    with open_log(f"{tmp_path}/log") as log:
        log.append(one("u", "a"))
        log.append(
            EventBatch(
                [name] * 300,
                ["quagga-item"] * 300,
                ["okapi-action"] * 300,
                np.arange(300),
                event_id=[f"gnu-event-{n}" for n in range(300)],
                request_id=["kudu-request"] * 300,
                extra=[b"eland-extra"] * 300,
            )
        )
        needles = [b"zebra", b"quagga", b"okapi", b"gnu-event", b"kudu", b"eland"]
        assert all(_holds(tmp_path / "log", needle) for needle in [*needles[1:], b"zebra"]), "the search can find them"
        log.erase(name)
        assert not any(_holds(tmp_path / "log", needle) for needle in needles)
        assert len(log.history("u", FAR_MS, 5)) == 1


def test_an_erasure_in_many_small_commits_leaves_what_one_commit_leaves(tmp_path, monkeypatch):
    def erased(place: str) -> tuple[object, object, tuple[str, ...]]:
        with open_log(f"{tmp_path}/{place}") as log:
            log.append(many(6_000, extra_bytes=50))
            log.append(one("zebra", "quagga", 5))
            log.erase("zebra")
            rows = [(b.user, b.item, b.event_id) for b in log.scan()]
            return rows, log.stats().events, log.verify().problems

    commits: list[int] = []
    commit = compact._Target.commit
    monkeypatch.setattr(compact._Target, "commit", lambda self: (commits.append(1), commit(self)))
    whole = erased("whole")
    assert len(commits) == 1 and whole[1:] == (6_000, ()), "positive control: a small log is one commit"
    monkeypatch.setattr(compact, "BYTES_A_COMMIT", 10_000)
    parts = erased("parts")
    assert len(commits) > 10 and parts[0] == whole[0]
    assert parts[1:] == whole[1:] and _holds(tmp_path / "parts", b"u96") and not _holds(tmp_path / "parts", b"quagga")


def test_retention_takes_the_names_of_those_who_have_nothing_left(tmp_path):
    with open_log(f"{tmp_path}/log") as log:
        log.import_events(one("zebra", "quagga", 5))
        log.import_events(one("u", "a", 50))
        log.retain(10)
        assert not _holds(tmp_path / "log", b"zebra") and not _holds(tmp_path / "log", b"quagga")


def test_a_generation_left_by_a_process_that_died_is_removed_at_the_next_opening(tmp_path):
    path = tmp_path / "log"
    open_log(str(path)).append(one("u", "a"))
    shutil.copytree(path / "generation-000001", path / "generation-000002")
    folder.mark_superseded(path, 1, mark=True)  # died between the mark and the rename
    with open_log(str(path), read_only=True) as log:
        assert len(log.history("u", FAR_MS, 5)) == 1, "the pointer decides, not the mark"
    with open_log(str(path)) as log:
        assert not (path / "generation-000002").exists()
        assert log.append(one("u", "b")).appended == 1


def test_a_closed_generation_sends_its_users_to_the_current_one(tmp_path):
    with LmdbEventLog(tmp_path / "log") as log:
        log.append(one("u", "a"))
        log.append(one("v", "a"))
        old = log._generation
        assert old is not None
        log.erase("v")
        with pytest.raises(GenerationClosed), old.reading():
            pass
        assert len(log.history("u", FAR_MS, 5)) == 1


# ---------------------------------------------------------------------- what is not our log


def test_a_folder_with_other_things_is_not_a_log(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(LogError, match=r"is not an event log .*name an empty folder"):
        open_log(f"{tmp_path}")


def test_a_file_is_not_a_log(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(LogError, match="is a file; an event log is a folder"):
        open_log(f"{tmp_path}/file")


@pytest.mark.parametrize(
    ("pointer", "message"),
    [
        ('{"format": "depthrank-events", "version": 2, "generation": 1}', "version 2; this program reads 1: update"),
        ('{"format": "other", "version": 1, "generation": 1}', "names format 'other'"),
        ('{"format": "depthrank-events"', "is damaged"),
        ('{"format": "depthrank-events", "version": 1, "generation": 7}', "cannot open the event log"),
    ],
)
def test_a_pointer_that_cannot_be_followed_is_one_clear_error(tmp_path, pointer, message):
    open_log(f"{tmp_path}/log").close()
    (tmp_path / "log" / "LOG").write_text(pointer)
    for read_only in (True, False):
        with pytest.raises(LogError, match=message):
            open_log(f"{tmp_path}/log", read_only=read_only)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "is cut off"),
        (lambda data: b"\xff" * 8192 + data[8192:], "is damaged"),
    ],
)
def test_a_damaged_file_is_refused_at_opening(tmp_path, damage, message):
    with open_log(f"{tmp_path}/log") as log:
        log.import_events(many(5_000))
    path = tmp_path / "log" / "generation-000001" / "data.mdb"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(LogError, match=message):
        open_log(f"{tmp_path}/log")
    path.write_bytes(whole)
    open_log(f"{tmp_path}/log").close()


def test_an_unknown_scheme_is_refused_by_name():
    with pytest.raises(LogError, match="no log backend is called 'mysql'; known: lmdb:, redis:"):
        open_log("mysql://host")


def test_paths_may_be_written_in_three_ways(tmp_path):
    open_log(f"lmdb:{tmp_path}/log").append(one("u", "a"))
    for url in (f"lmdb://{tmp_path}/log", f"{tmp_path}/log"):
        with open_log(url, read_only=True) as log:
            assert log.position() == 0


# ---------------------------------------------------------------------- verify can fail


def _tamper(log: LmdbEventLog, table: str, change: Callable[[bytes, bytes], bytes]) -> None:
    """Change the first value of a table."""
    generation = log._generation
    assert generation is not None
    with generation.env.begin(write=True) as transaction:
        cursor = transaction.cursor(db=getattr(generation, table))
        assert cursor.first()
        key, value = cursor.item()
        cursor.put(key, change(key, value))


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("log", lambda key, value: value[:-1] + bytes([value[-1] ^ 1]), "damaged"),
        ("chunks", lambda key, value: value[:-32], "chunks hold 299 events, the log 300"),
        ("chunks", lambda key, value: value[:16] + b"\7" + value[17:], "does not start with the event of its key"),
        ("chunks", lambda key, value: value[:32] + value[64:] + value[32:64], "out of order"),
        ("users", lambda key, value: value[:4] + b"\1" + value[5:], "the head says"),
        ("event_ids", lambda key, value: b"\xff" * 8, "its event id is not indexed"),
        ("item_ids", lambda key, value: b"other", "code 0 and its id disagree"),
    ],
)
def test_verify_tells_what_is_wrong(tmp_path, table, change, message):
    log = LmdbEventLog(tmp_path / "log")
    log.import_events(
        EventBatch(["u"] * 300, ["i"] * 300, ["click"] * 300, np.arange(300), event_id=[f"e{n}" for n in range(300)])
    )
    assert log.verify().ok
    _tamper(log, table, change)
    report = log.verify()
    assert not report.ok and any(message in problem for problem in report.problems), report.problems
    log.close()


def test_the_environment_never_runs_without_syncing_its_data(tmp_path):
    for durable in (True, False):
        with LmdbEventLog(tmp_path / "log", durable=durable) as log:
            assert log._generation is not None
            flags = log._generation.env.flags()
            assert flags["sync"] and not flags["writemap"] and not flags["metasync"]


def test_an_environment_opened_by_somebody_else_in_this_process_is_an_error_not_a_crash(tmp_path):
    open_log(f"{tmp_path}/log").close()
    foreign = lmdb.open(f"{tmp_path}/log/generation-000001", max_dbs=20)
    with pytest.raises(LogError, match="already open in this process"):
        open_log(f"{tmp_path}/log")
    foreign.close()
    open_log(f"{tmp_path}/log").close()


def test_the_log_opens_through_its_class_as_through_the_function(tmp_path):
    with EventLog.open(f"{tmp_path}/log") as log:
        assert isinstance(log, LmdbEventLog)
