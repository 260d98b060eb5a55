"""Writes are refused before the disk is full; rankings go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from live_server import live_server
from prometheus_client import CollectorRegistry

from depthrank.errors import StorageFullError
from depthrank.server.status.disk_watermark import MIB, DiskWatermark, StorageSettings

EVENT = {"user": "u", "item": "3", "action": "click"}


class Disk:
    """A disk whose free bytes a test sets, and a clock beside it."""

    def __init__(self, free: int) -> None:
        self.free, self.now_s, self.looks = free, 0.0, 0

    def read(self, _folder: Path) -> int:
        self.looks += 1
        return self.free

    def watermark(self, folder: Path | None, least: int = 100) -> DiskWatermark:
        settings = StorageSettings(least_free_bytes=least)
        return DiskWatermark(folder, settings, CollectorRegistry(), self.read, lambda: self.now_s)


def test_below_the_mark_a_write_is_refused_and_above_it_is_made(tmp_path: Path) -> None:
    disk = Disk(free=99)
    mark = disk.watermark(tmp_path)
    with pytest.raises(StorageFullError, match=r"storage\.least_free_bytes"):
        mark.guarded(lambda: 1)()
    assert len(mark.trouble) == 1
    disk.free, disk.now_s = 100, 2.0
    assert mark.guarded(lambda: 1)() == 1
    assert mark.trouble == []


def test_the_disk_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    disk = Disk(free=500)
    mark = disk.watermark(tmp_path)
    for _ in range(50):
        mark.check()
    assert disk.looks == 1
    disk.now_s = 1.0
    mark.check()
    assert disk.looks == 2


def test_a_log_on_another_machine_is_not_watched() -> None:
    disk = Disk(free=0)
    mark = disk.watermark(None)
    mark.check()
    assert mark.trouble == [] and disk.looks == 0


def test_on_a_full_disk_events_are_507_rankings_go_on_and_health_tells(tmp_path: Path) -> None:
    disk = Disk(free=5 * MIB)
    with live_server() as live:
        service = live.service
        service.disk._folder, service.disk._read, service.disk._least = tmp_path, disk.read, 64 * MIB
        refused = live.client.post("/v1/events", json=EVENT)
        assert refused.status_code == 507 and refused.json()["error"]["type"] == "storage_full"
        assert live.ranker.events == []
        upsert = live.client.post("/v1/items", json={"item": "3", "title": "New"})
        assert upsert.status_code == 507
        ranked = live.client.post("/v1/rank", json={"user": "u", "candidates": [1, 2]})
        assert ranked.status_code == 200 and len(ranked.json()["items"]) == 2
        assert any("5 MiB are free" in line for line in live.client.get("/health/ready").json()["trouble"])
        assert live.metric("depthrank_disk_refused_total") >= 2
        service.disk._least = 0
        assert live.client.post("/v1/events", json=EVENT).status_code == 200
