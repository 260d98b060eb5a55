"""The answer to a request whose levels have run."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from depthrank.engine.explain import explain
from depthrank.engine.under_way import UnderWay
from depthrank.schema import Answer, Degraded
from depthrank.tables import noting_missing_rows


def answer_of(under_way: UnderWay, request_id: str, spent: bool, monotonic_s: Callable[[], float]) -> Answer:
    """Its best candidates in order, and what became of the request; ``spent``: what it took, too."""
    job, scores = under_way.job, under_way.scores
    assert scores is not None, "its levels have run"
    with job.timings.stage("order"):
        best = job.best(scores)
        items = job.ranked(scores, best)
    story = None
    if job.request.explain:
        with noting_missing_rows():  # told while its levels ran
            story = explain(job, scores, best)
    job.timings.ms["total"] = (monotonic_s() - under_way.started_s) * 1e3
    return Answer(
        request_id=request_id,
        model=job.generation.artifact.served_id,
        items=items,
        plan=list(job.widths),
        candidates_scored=scores.scored,
        timings_ms=job.timings.ms,
        degraded=Degraded(bool(scores.reasons), scores.reasons),
        explain=story,
        warnings=job.generation.unsent.warnings(job.request) or msgspec.UNSET,
        spent=job.accounts(scores.stopped) if spent else msgspec.UNSET,
    )
