"""``tune``: an artifact's precision policy for this machine, from the validation requests of its own dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from depthrank.artifact import Artifact, load_artifact
from depthrank.data import import_log, load_dataset, load_examples
from depthrank.errors import SpecError
from depthrank.evaluate.evaluate_artifact import check_same_tasks, opened_log, replace_data
from depthrank.events import EventLog
from depthrank.features import Counters
from depthrank.precision import PrecisionPolicy, in_formats, write_policy
from depthrank.schema import Spec
from depthrank.training.fit_precision import Tuned, default_plans, fit_precision
from depthrank.training.judge_precision import Judge
from depthrank.training.replay_requests import FullDepth, HeldOut
from depthrank.training.tuning_requests import BATCH_REQUESTS, Plan, Settings

MOST_PLANS = 4


def tune(
    artifact: str | Path,
    spec: Spec | str | Path,
    log: EventLog | str | None = None,
    settings: Settings | None = None,
    *,
    write: bool = True,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> Tuned:
    """Measure, choose, verify, and write ``policies/<fingerprint>.json`` into the artifact's folder.

    ``log`` as in ``evaluate``. Raises ArtifactError, DataError, SpecError.
    """
    settings = settings or Settings()
    loaded = load_artifact(artifact)
    _check_plans(settings.plans, loaded.model.config.num_levels)
    with _held_out(artifact, loaded, spec, log) as held_out:
        plans = ladder_plans(loaded, settings.candidates)
        tuned = fit_precision(held_out, loaded.model, plans, settings, on_phase=on_phase)
    if write:
        on_phase(f"written: {write_policy(tuned.policy, Path(artifact))}")
    return tuned


def judge_split(
    artifact: str | Path,
    spec: Spec | str | Path,
    log: EventLog | str | None,
    policy: PrecisionPolicy,
    split: str,
    most_requests: int,
) -> dict[str, Any]:
    """What a policy costs on a split at full depth against fp32, with intervals by bootstrap over users."""
    loaded = load_artifact(artifact)
    with _held_out(artifact, loaded, spec, log) as held_out:
        loader, _ = held_out.requests(split, most_requests, batch_requests=BATCH_REQUESTS)
        batches = [batch for batch in loader.epoch(0) if len(batch.item_row)]
        judge = Judge(FullDepth(held_out.spec, loaded.model, loaded.encoder, held_out.items), batches)
    served = in_formats(loaded.model, policy.choices)
    return judge.accuracy(served).to_plain() | {"requests": judge.num_requests, "intervals": judge.intervals(served)}


@contextmanager
def _held_out(
    path: str | Path, artifact: Artifact, spec: Spec | str | Path, log: EventLog | str | None
) -> Iterator[HeldOut]:
    """Where held-out requests of the artifact's dataset come from."""
    spec = spec if isinstance(spec, Spec) else Spec.load(spec)
    check_same_tasks(artifact.spec, spec)
    raw = load_dataset(spec)
    examples = load_examples(spec, raw)
    served = replace_data(artifact.spec, spec)
    with opened_log(log, path) as event_log:
        import_log(spec, raw, event_log)
        counters = Counters.rebuild(served, event_log, raw.items, raw.users)
        yield HeldOut(served, examples, artifact.encoder, event_log, counters, raw.items, raw.users)


def ladder_plans(artifact: Artifact, usual: int | None) -> list[Plan]:
    """Rungs of the artifact's ladder that run more than the router, spread over it; or made-up plans without one."""
    levels = artifact.model.config.num_levels
    if artifact.adaptive is None:
        return default_plans(levels, usual or 1 << 20)
    ladder = artifact.adaptive.ladder
    usual = usual or ladder.usual
    caps = [(usual, *(int(width) for width in row)) for row in ladder.caps(usual, 10)]
    deeper = [plan for plan in caps if any(plan[1:])]
    step = max(1, -(-(len(deeper) - 1) // (MOST_PLANS - 1)))
    return [*deeper[:-1:step], deeper[-1]]


def _check_plans(plans: tuple[Plan, ...], num_levels: int) -> None:
    for plan in plans:
        if len(plan) != num_levels or any(a < b for a, b in pairwise(plan)) or plan[-1] < 0:
            raise SpecError(
                f"the plan {plan} does not fit: this model takes {num_levels} widths, router first, none growing"
            )
