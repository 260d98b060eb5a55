"""What earlier versions wrote is read today: artifacts, event logs, backups. An archive a release (make.py)."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from depthrank.engine import Ranker
from depthrank.events import EventLog, open_log
from depthrank.schema import Request

ARCHIVES = sorted(Path(__file__).parent.glob("*.tar.gz"))
ASKED_MS = 1_700_100_000_000
TOLERANCE = 1e-5


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def expected(old: Path) -> Any:
    return json.loads((old / "expected.json").read_text())


def test_an_old_log_is_read_appended_to_and_whole(old: Path) -> None:
    with open_log(f"lmdb:{old / 'events'}") as log:
        stats = log.stats()
        assert (stats.events, stats.users) == (expected(old)["events"], expected(old)["users"])
        assert log.verify().ok


def test_an_old_backup_is_restored(old: Path) -> None:
    with EventLog.restore(old / "backup", f"lmdb:{old / 'restored'}") as log:
        assert log.stats().events == expected(old)["events"]


def test_an_old_artifact_answers_as_it_did(old: Path) -> None:
    torch.set_num_threads(1)
    with open_log(f"lmdb:{old / 'events'}") as log:
        ranker = Ranker.load(old / "artifact", log=log)
        for user, rows in expected(old)["answers"].items():
            request = Request(user=user, candidates="all", top=len(rows), time_ms=ASKED_MS, mode="full")
            answer = ranker.rank(request)
            values = [item.value for item in answer.items]  # by place: equal values may swap their items
            assert values == pytest.approx([value for _, value, _ in rows], rel=TOLERANCE)
            assert len({item.item for item in answer.items} & {item for item, _, _ in rows}) >= len(rows) - 1
        for user, events in expected(old)["histories"].items():
            assert ranker.history(user, 5) == events


def test_an_old_artifact_still_chooses_its_depth(old: Path) -> None:
    """Its policy is bound to the weights it was made for; that bond must outlive what a config gains later."""
    torch.set_num_threads(1)
    with open_log(f"lmdb:{old / 'events'}") as log:
        ranker = Ranker.load(old / "artifact", log=log)
        answer = ranker.rank(Request(user="u0", candidates="all", time_ms=ASKED_MS))
        economy = ranker.economy()
    assert answer.items and not answer.degraded.is_
    assert len(economy.rungs) >= 2
