"""The loaded versions as ``GET /v1/models`` shows them."""

from __future__ import annotations

from typing import Any

from depthrank.server.answers import Models as ModelsAnswer
from depthrank.server.answers import ModelView
from depthrank.server.models.lease import Lease
from depthrank.server.models.shadow import Agreement, Shadow
from depthrank.server.models.versions import Models

ORDER = ("stable", "canary", "shadow", "previous")


def models_view(models: Models, phase: str, shadow: Shadow | None = None) -> ModelsAnswer:
    """Every version, stable first; ``phase``: of the server, as stable's status."""
    agreement = {} if shadow is None else shadow.agreement
    views = []
    for held in models._held_now():
        with held as lease:
            views.append(_view(models, lease, phase, agreement.get(lease.version.model)))
    views.sort(key=lambda view: min([ORDER.index(label) for label in view.labels], default=len(ORDER)))
    verdict = models.canary.verdict
    judged: dict[str, Any] = {"mode": models.canary.rule.mode, "rollbacks": models.canary.rollbacks}
    judged |= {"rollback": verdict.rollback, "reasons": list(verdict.reasons), "waiting_for": list(verdict.waiting)}
    return ModelsAnswer(views, models.loading, judged)


def _view(models: Models, lease: Lease, phase: str, agreement: Agreement | None) -> ModelView:
    version, ranker, labels = lease.version, lease.ranker, models.labels
    held = labels.labels_of(version)
    share = labels.canary_share if "canary" in held else labels.shadow_share if "shadow" in held else None
    recent = version.recent
    counts: dict[str, float] = {
        "answers": recent.answers,
        "errors": recent.errors,
        "degraded": recent.degraded,
        "under_way": version.leases - 1,
    }
    return ModelView(
        name=ranker.spec.name,
        status=phase if "stable" in held else "loaded",
        items=ranker.generation.items.size - 1,  # without the unknown one
        tasks={task: ranker.spec.action_of(task) for task in ranker.spec.tasks},
        info=ranker.info(),
        model=version.model,
        labels=held,
        share=share,
        counts=counts,
        shadowed=None if agreement is None else shadowed(agreement),
        note=version.note,
    )


def shadowed(agreement: Agreement) -> dict[str, float]:
    """Agreement with stable as means."""
    n = max(agreement.answers, 1)
    return {
        "answers": agreement.answers,
        "failed": agreement.failed,
        "dropped": agreement.dropped_load + agreement.dropped_queue,
        "overlap@10": agreement.overlap / n,
        "value_difference": agreement.difference / n,
        "mean_ms": 1e3 * agreement.seconds / n,
    }
