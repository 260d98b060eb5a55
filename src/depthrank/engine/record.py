"""What it takes to rank a request again exactly as it was ranked: inputs, readings, decision, and the order given.

The clock is recorded by its consequences: which chunks ran, of which stage and how many candidates. A clock that has
passed the deadline stays past it, so the chunks tell where the request was cut, and replaying them cuts it there again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np
import torch

from depthrank.engine.depth import AdaptiveDepth
from depthrank.engine.job import Job
from depthrank.engine.pace import Pace
from depthrank.engine.run_plan import Scores
from depthrank.precision.hardware import examine_hardware
from depthrank.schema import Answer

FORMAT = 1


@dataclass(frozen=True)
class Seen:
    """What the request saw: its start (monotonic seconds), the log's newest position, the newest upsert applied."""

    started_s: float
    log_position: int | None
    last_upsert: int


@cache
def hardware() -> dict[str, Any]:
    """What floating-point results depend on: the machine as precision policies know it, and torch."""
    machine = examine_hardware()
    return {"fingerprint": machine.fingerprint, "cpu": machine.cpu, "torch": str(torch.__version__)}


def record_of(job: Job, scores: Scores, pace: Pace, answer: Answer, seen: Seen) -> dict[str, Any]:
    """The record of a ranked request, of plain values."""
    decision = job.depth.record() if isinstance(job.depth, AdaptiveDepth) else None
    request = msgspec.to_builtins(job.request, enc_hook=_plain)
    precision = job.generation.artifact.precision
    return {
        "format": FORMAT,
        "request_id": answer.request_id,
        "user": str(job.request.user),
        "model": answer.model,
        "hardware": {**hardware(), "threads": torch.get_num_threads()},
        "precision": None if precision is None else precision.facts(),
        "request": {**request, "time_ms": job.time_ms, "explain": False},
        "log_position": seen.log_position,
        "last_upsert": seen.last_upsert,
        "history_length": job.history_length,
        "user_state": None if job.user is None else job.user.told(),
        "price": None if decision is None else decision["inputs"]["price"],
        "decision": decision,
        "chunks": [[chunk.stage, chunk.candidates] for chunk in pace.chunks],
        "clock_ms": [round((chunk.started_s - seen.started_s) * 1e3, 4) for chunk in pace.chunks],
        "costs": [[cost.level, cost.candidates, cost.predicted_ms, cost.actual_ms] for cost in job.spent],
        "stopped": scores.stopped,
        "plan": list(answer.plan),
        "scored": list(answer.candidates_scored),
        "reasons": list(answer.degraded.reasons),
        "order": [[item.item, item.value, item.level] for item in answer.items],
    }


def _plain(value: object) -> object:
    """Columns may be numpy's."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise NotImplementedError(f"a request holds {type(value).__name__}")
