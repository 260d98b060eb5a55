"""Decision records on disk: bounded, torn lines passed over, a user's lines gone from the bytes; the audit's chain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from depthrank.server.decisions import DecisionLog, DecisionSettings
from depthrank.server.decisions.audit import Audit, broken_at
from depthrank.server.decisions.decision_files import DecisionFiles, read_records


def record(user: str, number: int, size: int = 0) -> dict[str, Any]:
    return {"user": user, "request_id": f"r{number}", "filler": "x" * size}


def ids(folder: Path) -> list[str]:
    return [r["request_id"] for r in read_records(folder)]


def test_files_turn_over_and_the_oldest_goes_first(tmp_path: Path) -> None:
    files = DecisionFiles(tmp_path, max_bytes=10_000, file_bytes=2_000)
    for number in range(100):
        files.append(record("u", number, 200))
        assert sum(path.stat().st_size for path in files.files()) <= 10_000
    kept = ids(tmp_path)
    assert kept == [f"r{n}" for n in range(100 - len(kept), 100)], "the newest, in order"
    assert 30 < len(kept) < 50 and len(files.files()) > 3


def test_a_new_process_goes_on_in_a_file_of_its_own(tmp_path: Path) -> None:
    DecisionFiles(tmp_path, 10_000, 10_000).append(record("u", 0))
    (torn,) = tmp_path.glob("*.jsonl")
    torn.write_bytes(torn.read_bytes() + b'{"user":"torn","re')
    DecisionFiles(tmp_path, 10_000, 10_000).append(record("u", 1))
    assert ids(tmp_path) == ["r0", "r1"]
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_an_erased_user_is_gone_from_the_bytes_and_others_stay(tmp_path: Path) -> None:
    files = DecisionFiles(tmp_path, 1 << 20, 500)
    for number in range(20):
        files.append(record("gone" if number % 3 == 0 else f"gone-not-{number}", number))
    assert files.erase("gone") == 7
    assert [r for r in ids(tmp_path) if int(r[1:]) % 3 == 0] == [] and len(ids(tmp_path)) == 13
    assert not any(b'"gone"' in path.read_bytes() for path in files.files())
    assert files.erase("gone") == 0
    files.append(record("later", 99))
    assert ids(tmp_path)[-1] == "r99"


def test_a_torn_line_that_names_the_user_goes_too(tmp_path: Path) -> None:
    (tmp_path / "decisions-00000001.jsonl").write_bytes(b'{"user":"gone","filler":"xx')
    assert DecisionFiles(tmp_path, 1 << 20, 500).erase("gone") == 1
    assert b"gone" not in (tmp_path / "decisions-00000001.jsonl").read_bytes()


@given(user=st.text(max_size=20), other=st.text(max_size=20))
def test_any_user_can_be_erased_and_only_that_user(
    tmp_path_factory: pytest.TempPathFactory, user: str, other: str
) -> None:
    files = DecisionFiles(tmp_path_factory.mktemp("d"), 1 << 20, 1 << 20)
    files.append(record(user, 0))
    files.append(record(other, 1))
    assert files.erase(user) == 1 + (user == other)
    assert ids(files.folder) == ([] if user == other else ["r1"])


def test_a_full_disk_leaves_no_half_a_line_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    log = DecisionLog(tmp_path, DecisionSettings(share=1.0), registry)
    write = DecisionFiles.append

    def full(_files: DecisionFiles, _record: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    log.put(record("u", 0))
    log._pool.submit(lambda: None).result()
    monkeypatch.setattr(DecisionFiles, "append", full)
    log.put(record("u", 1))
    log._pool.submit(lambda: None).result()
    assert log.trouble == "storage"
    assert registry.get_sample_value("depthrank_decisions_lost_total", {"reason": "storage"}) == 1
    monkeypatch.setattr(DecisionFiles, "append", write)
    log.put(record("u", 2))
    log.close()
    assert log.trouble is None and ids(tmp_path) == ["r0", "r2"]


def test_erasing_reaches_records_that_still_wait(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, DecisionSettings(share=1.0), CollectorRegistry())
    for number in range(50):
        log.put(record("gone", number))
    assert log.erase("gone") == 50 and ids(tmp_path) == []
    log.close()


def test_the_share_is_kept_and_the_same_request_is_always_sampled_alike(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, DecisionSettings(share=0.1), CollectorRegistry())
    wanted = [log.wants(f"r{n}") for n in range(5_000)]
    assert 0.08 < sum(wanted) / len(wanted) < 0.12
    assert wanted == [log.wants(f"r{n}") for n in range(5_000)]
    assert not DecisionLog(None, DecisionSettings(share=1.0), CollectorRegistry()).wants("r")


def audited(folder: Path, clock: Callable[[], int] = lambda: 17) -> Audit:
    audit = Audit(folder, clock)
    for number in range(3):
        audit.erased(f"user {number}", {"events": number, "pending": 0})
    return audit


def test_the_audit_names_nobody_and_proves_an_erasure_to_who_knows_the_id(tmp_path: Path) -> None:
    audit = audited(tmp_path)
    lines = [msgspec.json.decode(line) for line in audit.path.read_bytes().splitlines()]
    assert b"user 1" not in audit.path.read_bytes()
    assert lines[1]["user_hash"] == audit.hash_of("user 1") != audit.hash_of("user 2")
    assert [line["events"] for line in lines] == [0, 1, 2] and lines[0]["at_ms"] == 17
    assert (tmp_path / "audit.key").stat().st_mode & 0o077 == 0
    assert Audit(tmp_path, lambda: 0).hash_of("user 1") == lines[1]["user_hash"], "a restart keeps the key"


def test_the_chain_shows_a_line_that_was_changed_or_taken_out(tmp_path: Path) -> None:
    path = audited(tmp_path).path
    assert broken_at(path) is None
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    assert broken_at(path) == 2
    path.write_bytes(lines[0].replace(b'"events":0', b'"events":9') + lines[1] + lines[2])
    assert broken_at(path) == 2
