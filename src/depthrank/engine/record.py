"""What it takes to rank a request again exactly as it was ranked: inputs, readings, decision, and the order given.

The clock is recorded by its consequences: which chunks ran, of which stage and how many candidates. A clock that has
passed the deadline stays past it, so the chunks tell where the request was cut, and replaying them cuts it there again.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import numpy as np
import torch

from depthrank.engine.depth import AdaptiveDepth
from depthrank.engine.under_way import UnderWay
from depthrank.kernels.hardware import examine_hardware
from depthrank.schema import Answer

FORMAT = 1


@cache
def hardware() -> dict[str, Any]:
    """What floating-point results depend on: the machine as precision policies know it, and torch."""
    machine = examine_hardware()
    return {"fingerprint": machine.fingerprint, "cpu": machine.cpu, "torch": str(torch.__version__)}


def record_of(under_way: UnderWay, answer: Answer, log_position: int | None) -> dict[str, Any]:
    """The record of a ranked request, of plain values. ``log_position``: the newest when it was answered.

    ``batches``: the passes that it shared with others, where it did (``engine.shared_pass``).
    """
    job, pace, scores = under_way.job, under_way.pace, under_way.scores
    assert scores is not None, "its levels have run"
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
        "log_position": log_position,
        "last_upsert": under_way.last_upsert,
        "history_length": job.history_length,
        "user_state": None if job.user is None else job.user.told(),
        "price": None if decision is None else decision["inputs"]["price"],
        "decision": decision,
        "batches": job.batches,
        "chunks": [[chunk.stage, chunk.candidates] for chunk in pace.chunks],
        "clock_ms": [round((chunk.started_s - under_way.started_s) * 1e3, 4) for chunk in pace.chunks],
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
