"""Backups that must be refused, and backups taken while the log changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from depthrank.errors import LogError
from depthrank.events import EventBatch, EventLog, open_log
from depthrank.events.on_lmdb import LmdbEventLog


def events_of(user: str, count: int) -> EventBatch:
    return EventBatch([user] * count, [f"{user}-{n}" for n in range(count)], ["click"] * count, np.arange(count))


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    with open_log(f"{tmp_path}/log") as log:
        log.import_events(events_of("u", 10))
        log.backup(tmp_path / "backup")
    return tmp_path / "backup"


def set_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: (b / "events-000000.msgpack").write_bytes(b"x"), "its checksum is not the one in manifest.json"),
        (lambda b: (b / "items.msgpack").unlink(), "is incomplete"),
        (lambda b: (b / "manifest.json").unlink(), "is not a backup of an event log"),
        (lambda b: (b / "manifest.json").write_text("{"), "is not a backup of an event log"),
        (lambda b: set_manifest(b, format="zip"), "names format 'zip'"),
        (lambda b: set_manifest(b, version=2), "is of backup version 2, this program reads 1; update it"),
        (lambda b: set_manifest(b, events="ten"), "is damaged"),
        (lambda b: set_manifest(b, files={"../../etc/passwd": "0"}), "files outside its folder"),
        (lambda b: set_manifest(b, files={}), "does not list actions.msgpack, items.msgpack"),
    ],
)
def test_a_damaged_backup_is_refused_before_anything_is_written(tmp_path, backup, damage, message):
    damage(backup)
    with pytest.raises(LogError, match=message):
        EventLog.restore(backup, f"{tmp_path}/restored")
    assert not (tmp_path / "restored").exists()


def test_a_whole_backup_is_restored(tmp_path, backup):
    with EventLog.restore(backup, f"{tmp_path}/restored") as log:
        assert log.stats().events == 10


def test_a_backup_that_does_not_hold_what_it_says_is_refused(tmp_path, backup):
    set_manifest(backup, events=11)
    with pytest.raises(LogError, match="differs from the backup"):
        EventLog.restore(backup, f"{tmp_path}/restored")


def test_a_restore_that_broke_off_leaves_a_log_that_does_not_open(tmp_path, backup, monkeypatch):
    monkeypatch.setattr("depthrank.events.on_lmdb.scan_log.finish_load", _break_off)
    with pytest.raises(KeyboardInterrupt):
        EventLog.restore(backup, f"{tmp_path}/restored")
    for read_only in (True, False):
        with pytest.raises(LogError, match=r"broke off; remove the folder and restore again"):
            open_log(f"{tmp_path}/restored", read_only=read_only)


def _break_off(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_backup_never_overwrites(tmp_path, backup):
    with open_log(f"{tmp_path}/log") as log, pytest.raises(LogError, match="exists; back up into a new folder"):
        log.backup(backup)


class Interrupted(LmdbEventLog):
    """A log to which something happens while it is scanned."""

    meanwhile: Callable[[], object]

    def scan(self, *arguments, **options):
        for batch in super().scan(*arguments, **{**options, "batch_size": 1000}):
            yield batch
            self.meanwhile()


def test_a_backup_holds_the_log_as_of_its_beginning_while_appends_go_on(tmp_path):
    with Interrupted(tmp_path / "log") as log:
        log.import_events(events_of("u", 5000))
        log.meanwhile = lambda: log.append(events_of("late", 10))
        assert log.backup(tmp_path / "backup") == 5000
    with EventLog.restore(tmp_path / "backup", f"{tmp_path}/restored") as restored:
        assert restored.stats().users == 1 and restored.position() == 4999


def test_an_erasure_during_a_backup_makes_it_start_again_without_the_erased(tmp_path):
    with Interrupted(tmp_path / "log") as log:
        log.import_events(events_of("zebra", 1500))
        log.import_events(events_of("u", 5000))
        log.meanwhile = lambda: log.erase("zebra")
        assert log.backup(tmp_path / "backup") == 5000
    assert not any(b"zebra" in path.read_bytes() for path in (tmp_path / "backup").iterdir())
    assert list(tmp_path.glob(".*unfinished*")) == []


def test_a_backup_gives_up_where_erasures_never_end(tmp_path):
    with Interrupted(tmp_path / "log") as log:
        log.import_events(EventBatch([f"u{n}" for n in range(2000)], ["i"] * 2000, ["click"] * 2000, np.arange(2000)))
        left = iter(range(2000))
        log.meanwhile = lambda: log.erase(f"u{next(left)}")
        with pytest.raises(LogError, match="erasures came in between; try again later"):
            log.backup(tmp_path / "backup")
        assert not (tmp_path / "backup").exists()


def test_a_backup_is_plain_msgpack(backup):
    assert msgspec.msgpack.decode((backup / "items.msgpack").read_bytes())[:2] == ["u-0", "u-1"]
