"""What happens around an answer beside the ranking: the rules after it, its decision record, and what follows when it
has left (served impressions, labels awaited, the shadow's copy)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from depthrank.errors import LogError
from depthrank.events import EraseResult, EventBatch
from depthrank.schema import Answer, Request
from depthrank.server.after_ranking import AfterRanking
from depthrank.server.answers import Erased
from depthrank.server.decisions import DecisionLog, Drift
from depthrank.server.decisions.audit import Audit
from depthrank.server.decisions.drift_file import DriftFile
from depthrank.server.decisions.drift_metrics import DriftMetrics
from depthrank.server.metrics import ServerMetrics
from depthrank.server.models import Models
from depthrank.server.models.model_metrics import ModelMetrics
from depthrank.server.models.shadow import Shadow
from depthrank.server.served import ServedImpressions
from depthrank.server.settings import ServerSettings
from depthrank.server.status.disk_watermark import DiskWatermark

logger = logging.getLogger("depthrank.server")


class Outcomes:
    """``busy``: whether requests wait now; ``clock``: milliseconds since 1970."""

    def __init__(
        self,
        models: Models,
        settings: ServerSettings,
        metrics: ServerMetrics,
        busy: Callable[[], bool],
        clock: Callable[[], int],
        disk: DiskWatermark,
    ) -> None:
        self._models, self._settings, self._clock = models, settings, clock
        folder = decision_folder(models, settings)
        self.after = AfterRanking(settings.after, lambda: models.generation.items, metrics.registry)
        self.decisions = DecisionLog(folder, settings.decisions, metrics.registry)
        self.audit = None if folder is None else Audit(folder, clock)
        self.drift = Drift(models.spec, settings.decisions.drift_hours, settings.decisions.drift_impressions)
        self.drift_file = DriftFile(folder, self.drift)
        self.drift_file.load()
        self.shadow = Shadow(models, busy)
        self.served = ServedImpressions(disk.guarded(models.record_all_served), settings.served_queue, metrics)
        models.canary.quality = self.drift
        metrics.registry.register(ModelMetrics(models, self.shadow))
        metrics.registry.register(DriftMetrics(self.drift))

    @property
    def trouble(self) -> list[str]:
        """What is being lost now, for ``/health/ready``."""
        told = []
        if self._models.measures().get("log_down"):
            told.append("the event log cannot be read: requests are ranked without history")
        if self.served.trouble:
            told.append(f"served impressions are being lost: {self.served.trouble}")
        if self.decisions.trouble:
            told.append(f"decision records are being lost: {self.decisions.trouble}")
        return told

    def asked(self, request: Request, request_id: str) -> tuple[Request, bool]:
        """The request as it is ranked, and whether its decision is recorded."""
        return self.after.widened(request, self._settings.limits.max_top), self.decisions.wants(request_id)

    def answered(self, asked: Request, answer: Answer) -> Answer:
        """The ranked answer as it leaves; its record goes its own way."""
        record, answer.record = answer.record, msgspec.UNSET
        answer = self.after.apply(answer, asked.top)
        if record is not msgspec.UNSET:
            shown = None if answer.after is msgspec.UNSET else answer.after
            self.decisions.put({**record, "at_ms": self._clock(), "after": shown})
        return answer

    def left(self, request: Request, answer: Answer) -> None:
        """The answer has left; ``request`` has its time. Nothing here waits or fails."""
        if self._settings.log_served and answer.items:
            self.served.put(request, answer)
            self.drift.shown(request, answer, self._clock())  # not the request's time, which a client may choose
            if self.drift_file.is_due():
                self.decisions.beside(self.drift_file.save)
        self.shadow.offer(request, answer)

    def events_came(self, events: EventBatch) -> None:
        """Events were appended; some are labels."""
        self.drift.acted(events, self._clock())

    def erase(self, user: str) -> Erased:
        """Erase a user from the log, its known backups, caches and decision records, and write it into the audit.

        What could not be removed stands in ``pending``. Raises LogError, OverloadError.
        """
        result: EraseResult = self._models.erase(user)
        self.drift.forget(user)
        pending = list(result.pending)
        decisions = 0
        try:
            decisions = self.decisions.erase(user)
        except OSError as error:
            logger.error("decision records of an erased user could not be rewritten: %s", error)
            pending.append("decision records: their files cannot be rewritten now")
        erased = Erased(user, result.events, decisions, result.backups, pending)
        self._write_audit(erased)
        return erased

    def close(self) -> None:
        """Write everything that waits."""
        self.served.close()
        self.drift.close_until(self._clock())
        self.decisions.beside(self.drift_file.save)
        self.decisions.close()
        self.shadow.close()

    def _write_audit(self, erased: Erased) -> None:
        if self.audit is None:
            return
        facts = {"events": erased.events, "decisions": erased.decisions, "backups": erased.backups}
        try:
            self.audit.erased(erased.user, {**facts, "pending": len(erased.pending)})
        except OSError as error:
            raise LogError(f"the erasure is done, its audit entry could not be written: {error}") from error


def decision_folder(models: Models, settings: ServerSettings) -> Path | None:
    """Where decision records and the audit lie; None where no artifact's folder is known and none is configured."""
    if settings.decisions.folder is not None:
        return Path(settings.decisions.folder)
    return None if models.first_path is None else Path(models.first_path).absolute().parent / "decisions"
