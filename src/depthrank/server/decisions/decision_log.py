"""Sampled decision records on their way to disk, behind the answers; a lost one is counted, never waited for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from depthrank.server.bounded_pool import BoundedPool, OverloadError
from depthrank.server.decisions.decision_files import DecisionFiles
from depthrank.server.decisions.settings import DecisionSettings
from depthrank.server.models.labels import share_of

logger = logging.getLogger("depthrank.server")
SALT = "decision"


class DecisionLog:
    """``trouble`` says in a few words why records are being lost now, or None."""

    def __init__(self, folder: Path | None, settings: DecisionSettings, registry: CollectorRegistry) -> None:
        """``folder`` None: nothing is recorded."""
        self.folder = folder
        self.trouble: str | None = None
        self._share = settings.share if folder is not None else 0.0
        self._files = DecisionFiles(folder or Path(), settings.max_bytes, settings.file_bytes)
        self._pool = BoundedPool("decisions", threads=1, queue=settings.queue)
        self._lock = threading.Lock()
        self._logged = Counter("depthrank_decisions_logged", "Decision records written", registry=registry)
        self._lost = Counter("depthrank_decisions_lost", "Decision records not written", ["reason"], registry=registry)

    def wants(self, request_id: str) -> bool:
        """Whether this request's decision is recorded: by its id, so a repeated request is sampled as before."""
        return self._share > 0 and share_of(SALT, request_id) < self._share

    def put(self, record: dict[str, Any]) -> None:
        """Write a record soon."""
        try:
            self._pool.submit(self._write, record)
        except OverloadError as error:
            self._lose("queue_full", error)

    def beside(self, write: Callable[[], object]) -> None:
        """Write something else to the same folder soon, behind the records; where that fails, the log says why."""
        try:
            self._pool.submit(self._told, write)
        except OverloadError as error:
            logger.warning("%s: not written now", error)

    @staticmethod
    def _told(write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            logger.error("beside the decision records: %s", error)

    def erase(self, user: str) -> int:
        """Remove a user's records, those that wait included; returns how many were on disk, once their bytes are gone.

        Raises OverloadError where the queue is full, OSError where a file cannot be rewritten.
        """
        if self.folder is None:
            return 0
        return self._pool.submit(self._erase, user).result()

    def close(self) -> None:
        """Write everything that waits."""
        self._pool.close()

    def _erase(self, user: str) -> int:
        with self._lock:
            return self._files.erase(user)

    def _write(self, record: dict[str, Any]) -> None:
        try:
            with self._lock:
                self._files.append(record)
        except OSError as error:
            self._lose("storage", error)
        except Exception as error:  # nobody waits for this call, so the server's log is the only witness
            logger.exception("a decision record was not written")
            self._lose("internal", error)
        else:
            self._logged.inc()
            self.trouble = None

    def _lose(self, reason: str, error: Exception) -> None:
        self._lost.labels(reason).inc()
        if self.trouble != reason:  # once per trouble, not once per record
            logger.error("decision records are being lost (%s): %s", reason, error)
        self.trouble = reason
