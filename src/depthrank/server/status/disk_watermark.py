"""Events are refused before the disk is full: what LMDB, compaction and logs need to go on is kept free."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import msgspec
from msgspec import Meta
from prometheus_client import CollectorRegistry, Counter, Gauge

from depthrank.errors import StorageFullError

Given = ParamSpec("Given")
Result = TypeVar("Result")
LOOK_EVERY_S = 1.0
MIB = 1024 * 1024


class StorageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``least_free_bytes``: below so many free bytes where the event log lies, events and upserts are refused (507) and
    impressions are lost; rankings and erasures go on. 0: never."""

    least_free_bytes: Annotated[int, Meta(ge=0)] = 256 * MIB


class DiskWatermark:
    """``folder`` None: the log lies elsewhere. ``free_bytes`` reads a folder's file system, once a second at most."""

    def __init__(
        self,
        folder: Path | None,
        settings: StorageSettings,
        registry: CollectorRegistry,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._least, self._read, self._now = folder, settings.least_free_bytes, free_bytes, monotonic_s
        self._lock = threading.Lock()
        self._looked_s, self._free = -LOOK_EVERY_S, 0
        self._refused = Counter(
            "depthrank_disk_refused", "Writes refused because little of the disk is free", registry=registry
        )
        free = Gauge("depthrank_disk_free_bytes", "Free bytes where the event log lies", registry=registry)
        free.set_function(lambda: math.nan if folder is None else self.free())

    @property
    def trouble(self) -> list[str]:
        """For ``/health/ready`` and the page."""
        return [self._words()] if self._folder is not None and self.free() < self._least else []

    def free(self) -> int:
        """Free bytes, as of a second ago at most."""
        assert self._folder is not None
        with self._lock:
            if self._now() - self._looked_s >= LOOK_EVERY_S:
                self._free, self._looked_s = self._read(self._folder), self._now()
            return self._free

    def check(self) -> None:
        """Raises StorageFullError below the mark."""
        if self._folder is not None and self.free() < self._least:
            self._refused.inc()
            raise StorageFullError(self._words())

    def guarded(self, call: Callable[Given, Result]) -> Callable[Given, Result]:
        """``call``, which is made only above the mark."""

        def checked(*args: Given.args, **options: Given.kwargs) -> Result:
            self.check()
            return call(*args, **options)

        return checked

    def _words(self) -> str:
        return (
            f"{self._free / MIB:,.0f} MiB are free where the event log lies, and storage.least_free_bytes keeps "
            f"{self._least / MIB:,.0f} MiB: nothing is written until there is room"
        )
