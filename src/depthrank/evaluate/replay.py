"""Held-out requests of an artifact replayed at full depth, with costs measured on this machine. The model is the one
that is served here: in the formats, and with the levels compiled, that ``tune`` chose for this machine, if it did.

Legend: R requests, D levels beyond the router.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from depthrank.artifact import Artifact
from depthrank.data import RawDataset, import_log, load_dataset, load_examples
from depthrank.data.split_times import SPLIT_CODE
from depthrank.engine.ready_artifact import ready_artifact
from depthrank.errors import ArtifactError, DataError
from depthrank.evaluate.engine_costs import PlannedRanker, engine_costs
from depthrank.evaluate.engine_timings import engine_timings
from depthrank.evaluate.evaluate_artifact import check_same_tasks, opened_log, replace_data
from depthrank.events import EventLog
from depthrank.features import Counters
from depthrank.metrics import Interval, mean_difference
from depthrank.routing import AdaptivePolicy, CostRates
from depthrank.routing.replayed import Replayed
from depthrank.schema import Spec
from depthrank.training.measure_costs import thinned_requests, thread_clock
from depthrank.training.replay_requests import FullDepth, HeldOut, OneRequest, replay

TIMED_REQUESTS = 12
ENGINE_REQUESTS = 24
KEPT_FOR_TIMING = 200
LEAST_REQUESTS = 10

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReplayedArtifact:
    """Validation requests, on which plans and prices are chosen, those of the judged split, and costs as the engine
    has them. ``timing``: predicted against actual, on requests of the judged split."""

    artifact: Artifact
    policy: AdaptivePolicy
    validation: Replayed
    judged: Replayed
    rates: CostRates
    some: list[OneRequest]
    raw: RawDataset
    timing: dict[str, Any]

    def depth_over_router(self, replicates: int = 1000) -> Interval:
        """NDCG@10 of full depth minus that of the router on the judged requests, paired by user."""
        full, router = (self.judged.ndcg(top) for top in (self.judged.full_top_RX, self.judged.router_top_RX))
        return mean_difference(full, router, self.judged.user_R, replicates=replicates)


def replay_artifact(
    artifact: str | Path,
    spec: Spec | str | Path,
    log: EventLog | str | None,
    split: str,
    most_requests: int,
    on_request: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> ReplayedArtifact:
    """Replay at most ``most_requests`` requests of validation and of ``split``.

    Raises ArtifactError where the artifact has no adaptive policy, DataError where a split is empty.
    """
    spec = spec if isinstance(spec, Spec) else Spec.load(spec)
    loaded = ready_artifact(artifact)
    if loaded.adaptive is None:
        reason = loaded.manifest.training.get("adaptive", {}).get("reason", "it was trained by an earlier version")
        raise ArtifactError(f"{artifact} has no plan ladder: {reason}; train it again")
    check_same_tasks(loaded.spec, spec)
    raw = load_dataset(spec)
    examples = load_examples(spec, raw)
    served = replace_data(loaded.spec, spec)
    assert split in SPLIT_CODE
    with opened_log(log, artifact) as event_log:
        import_log(spec, raw, event_log)
        counters = Counters.rebuild(served, event_log, raw.items, raw.users)
        held_out = HeldOut(served, examples, loaded.encoder, event_log, counters, raw.items, raw.users)
        full = FullDepth(served, loaded.model, loaded.encoder, raw.items)
        some: list[OneRequest] = []
        validation = _replayed(held_out, full, "validation", most_requests, [], on_request)
        judged = _replayed(held_out, full, split, most_requests, some, on_request)
        ranker = PlannedRanker(loaded, event_log, monotonic_s=thread_clock())
        ranker.warm()
        rates = engine_costs(ranker, thinned_requests(some, TIMED_REQUESTS), raw.items)
        timing = engine_timings(ranker, thinned_requests(some[1:], ENGINE_REQUESTS), raw.items, rates)
    return ReplayedArtifact(loaded, loaded.adaptive, validation, judged, rates, some, raw, timing)


def _replayed(
    held_out: HeldOut,
    full: FullDepth,
    split: str,
    most: int,
    some: list[OneRequest],
    on_request: Callable[[str, int, int], None],
) -> Replayed:
    loader, count = held_out.requests(split, most)

    def requests() -> Iterator[OneRequest]:
        for one in full.prepared(loader.epoch(0)):
            if len(some) < KEPT_FOR_TIMING:
                some.append(one)
            yield one

    replayed = replay(full, requests(), on_request=lambda done: on_request(split, done, count))
    if len(replayed) < LEAST_REQUESTS:
        raise DataError(f"{len(replayed)} {split} requests to replay, at least {LEAST_REQUESTS} are needed: see split")
    return replayed
