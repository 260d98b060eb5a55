"""An erasure reaches the backups: those the log knows of by itself, others by name; nothing of the user is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from depthrank.errors import LogError
from depthrank.events import EventBatch, EventLog, open_log
from depthrank.events.backup import read_backup
from depthrank.events.erase_backup import erase_from_backup

SECRET = "user-with-a-name"


def events_of(user: str, *items: str, **columns: object) -> EventBatch:
    n = len(items)
    ids = [f"{user}/{i}" for i in items]
    return EventBatch([user] * n, list(items), ["click"] * n, np.arange(n), event_id=ids, **columns)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    opened = open_log(f"{tmp_path}/log")
    opened.import_events(events_of("keeper", "a", "b"))
    opened.import_events(events_of(SECRET, "b", "only-theirs", extra=[b"\x81\xa1k\xa5hello", None]))
    opened.import_events(events_of("keeper", "c"))
    opened.append_upsert(b"upsert")
    return opened


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_user_goes_from_every_backup_that_the_log_made(log: EventLog, tmp_path: Path) -> None:
    with log:
        for name in ("one", "two"):
            log.backup(tmp_path / name)
        assert SECRET.encode() in bytes_in(tmp_path / "one"), "the check can see it"
        result = log.erase(SECRET)
    assert (result.events, result.backups, result.pending) == (2, 2, ())
    for name in ("one", "two"):
        content = bytes_in(tmp_path / name)
        assert SECRET.encode() not in content and b"only-theirs" not in content and b"hello" not in content
    assert {p.name for p in tmp_path.iterdir()} == {"log", "one", "two"}, "no remains beside them"


def test_a_backup_without_the_user_restores_to_what_the_log_itself_became(log: EventLog, tmp_path: Path) -> None:
    with log:
        log.backup(tmp_path / "backup")
        log.erase(SECRET)
        with EventLog.restore(tmp_path / "backup", f"{tmp_path}/restored") as restored:
            assert restored.verify().ok
            for ours, theirs in zip(log.scan(), restored.scan(), strict=True):
                assert list(ours.user) == list(theirs.user) and list(ours.item) == list(theirs.item)
                assert ours.log_position is not None and theirs.log_position is not None
                assert ours.log_position.tolist() == theirs.log_position.tolist()
            assert restored.item_dictionary() == log.item_dictionary()
            assert list(restored.upserts()) == [(0, b"upsert")]
            assert restored.append(events_of("new", "z")).positions.tolist() == [5], "positions are never used twice"


def test_what_cannot_be_reached_is_pending_with_what_to_do(log: EventLog, tmp_path: Path) -> None:
    with log:
        log.backup(tmp_path / "backup")
        shutil.move(tmp_path / "backup", tmp_path / "moved")
        (pending,) = log.erase(SECRET).pending
        assert "backup backup" in pending and "--backup FOLDER" in pending and SECRET not in pending
        assert erase_from_backup(tmp_path / "moved", SECRET) == 2
        assert erase_from_backup(tmp_path / "moved", SECRET) == 0
        shutil.move(tmp_path / "moved", tmp_path / "backup")
        assert log.erase(SECRET).pending == ()


def test_a_damaged_backup_is_pending_and_the_log_is_erased_all_the_same(log: EventLog, tmp_path: Path) -> None:
    with log:
        log.backup(tmp_path / "backup")
        (tmp_path / "backup" / "items.msgpack").write_bytes(b"x")
        result = log.erase(SECRET)
    assert result.events == 2 and len(result.pending) == 1
    with pytest.raises(LogError, match="is damaged"):
        erase_from_backup(tmp_path / "backup", SECRET)


def test_an_erasure_that_broke_off_between_its_renames_goes_on(log: EventLog, tmp_path: Path) -> None:
    with log:
        log.backup(tmp_path / "backup")
        (tmp_path / "backup").rename(tmp_path / ".backup.before-erasure")
        result = log.erase(SECRET)
    assert result.backups == 1 and result.pending == ()
    assert read_backup(tmp_path / "backup").manifest.events == 3
    assert not (tmp_path / ".backup.before-erasure").exists()


def test_a_disk_that_fails_leaves_the_backup_whole(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log:
        log.backup(tmp_path / "backup")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("depthrank.events.backup._write_synced", full)
        assert len(log.erase(SECRET).pending) == 1
    assert read_backup(tmp_path / "backup").manifest.events == 5


def test_the_list_of_backups_is_plain_and_a_damaged_one_is_told(log: EventLog, tmp_path: Path) -> None:
    with log:
        log.backup(tmp_path / "backup")
        listed = tmp_path / "log" / "backups.json"
        assert json.loads(listed.read_text()) == [str(tmp_path / "backup")]
        listed.write_text("{")
        with pytest.raises(LogError, match=r"backups\.json, the list of this log's backups"):
            log.erase(SECRET)
