"""``draw_curve``: replay, judge, prove the costs, and scale, in that order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from depthrank.evaluate.curve import Curve, curve_of
from depthrank.evaluate.evaluate_artifact import opened_log
from depthrank.evaluate.replay import replay_artifact
from depthrank.evaluate.scaling_curve import scaling_curve
from depthrank.events import EventLog
from depthrank.schema import Spec

EVERY = 50


def draw_curve(
    artifact: str | Path,
    spec: Spec | str | Path,
    log: EventLog | str | None = None,
    split: str = "test",
    most_requests: int = 400,
    *,
    scaling: bool = False,
    replicates: int = 1000,
    on_phase: Callable[[str], None] = lambda text: None,
) -> Curve:
    """Kept gain against cost of an artifact on held-out requests. Raises ArtifactError, DataError, SpecError."""

    def on_request(what: str, done: int, total: int) -> None:
        if done % EVERY == 0:
            on_phase(f"replaying {what} requests: {done} of {total}")

    with opened_log(log, artifact) as event_log:
        replayed = replay_artifact(artifact, spec, event_log, split, most_requests, on_request)
    on_phase("comparing plans")
    points = scaling_curve() if scaling else []
    return curve_of(replayed, split=split, replicates=replicates, scaling=points, timing=replayed.timing)
