"""A recorded ranking, made again: same model, same events and upserts, same decision, same chunks; the same order.

Bit for bit on the hardware that made it, where the user's state was encoded at once (``cold`` or ``warm``); a state
that was extended event by event, and a request that shared its pass with others, agree within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import torch

from depthrank.artifact import (
    Artifact,
    apply_columns,
    delta_folders,
    load_artifact,
    load_delta,
    with_delta,
    with_precision,
)
from depthrank.engine.compiled_levels import with_compiled_levels
from depthrank.engine.decision_inputs import inputs_of
from depthrank.engine.depth import AdaptiveDepth, Depth
from depthrank.engine.generation import Generation
from depthrank.engine.job import Job
from depthrank.engine.pace import Pace
from depthrank.engine.ranker import Ranker
from depthrank.engine.read_history import NO_HISTORY_READ, HistoryReader, unread_history
from depthrank.engine.record import FORMAT, hardware
from depthrank.engine.replay import decision_inputs
from depthrank.engine.run_plan import Scores
from depthrank.errors import ArtifactError
from depthrank.events import EventBatch, EventLog
from depthrank.features import EncodedHistory
from depthrank.routing.plain import fields_of
from depthrank.schema import Request

NEEDED = ("format", "model", "hardware", "request", "log_position", "last_upsert", "decision", "chunks", "order")
CUT = "deadline"
CLOSE = 1e-5


@dataclass(frozen=True)
class RankedAgain:
    """``same_order``: the same items at the same levels; ``largest_difference`` of their values, relative to the
    larger. ``differing``: what else is not as recorded (hardware, decision), in words."""

    same_order: bool
    largest_difference: float
    differing: tuple[str, ...]
    order: list[list[Any]]

    @property
    def exact(self) -> bool:
        """Every value to the last bit."""
        return self.same_order and self.largest_difference == 0.0

    @property
    def agrees(self) -> bool:
        """The same but for rounding."""
        return self.same_order and self.largest_difference <= CLOSE


def rank_again(record: object, artifact: str | Path, log: EventLog, deltas: str | Path | None = None) -> RankedAgain:
    """Rank a recorded request again; ``deltas``: the folder of those that the model had, where it had any.

    Raises ArtifactError for a damaged record or another model's, LogError.
    """
    fields = fields_of(record, NEEDED, "ranking record")
    if fields["format"] != FORMAT:
        raise ArtifactError(f"the record has format {fields['format']!r:.40}; this version reads {FORMAT}")
    loaded = _loaded(fields, artifact, deltas)
    try:
        request = msgspec.convert(fields["request"], Request)
        chunks = msgspec.convert(fields["chunks"], list[tuple[str, int]])
        logged = msgspec.convert(fields["order"], list[tuple[str, float, int]])
        position = msgspec.convert(fields["log_position"], int | None)
        last_upsert = msgspec.convert(fields["last_upsert"], int)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"the ranking record is damaged: {error}") from None
    view = _LogAsOf(log, log.position() if position is None else position, last_upsert)
    unread = NO_HISTORY_READ in str(fields.get("reasons"))
    ranker = _ReplayingRanker(
        loaded, cast(EventLog, view), fields["decision"], chunks, cut=_was_cut(fields), unread=unread
    )
    answer = ranker.rank(request)
    again = [(item.item, item.value, item.level) for item in answer.items]
    same = [(i, level) for i, _, level in again] == [(i, level) for i, _, level in logged]
    difference = max((_relative(a[1], b[1]) for a, b in zip(again, logged, strict=False)), default=0.0)
    told = (*_other_machine(fields["hardware"]), *ranker.told)
    return RankedAgain(same, difference, told, [list(row) for row in again])


def _loaded(fields: dict[str, Any], path: str | Path, deltas: str | Path | None) -> Artifact:
    """The model that made the record, in the formats it ran in, compiled where it was. Raises ArtifactError."""
    precision = fields.get("precision")
    in_policy = isinstance(precision, dict) and precision.get("policy") is True
    was_compiled = in_policy and isinstance(precision, dict) and bool(precision.get("compiled"))
    artifact = with_precision(load_artifact(path), path, "policy" if in_policy else "fp32")
    for folder in [] if deltas is None else delta_folders(Path(deltas)):
        if artifact.served_id == fields["model"]:
            break
        delta = load_delta(folder)
        artifact = with_delta(artifact, delta)
        apply_columns(artifact.items, artifact.users, delta)
    if fields["model"] != artifact.served_id:
        raise ArtifactError(
            f"the record is of model {fields['model']!r:.80}, {path} holds {artifact.served_id}: give the artifact "
            "that made it, and the folder of its deltas where the id ends in +N"
        )
    return with_compiled_levels(artifact) if was_compiled else artifact


def _was_cut(fields: dict[str, Any]) -> bool:
    return CUT in str(fields.get("stopped", ""))


def _relative(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), 1e-30)


def _other_machine(recorded: object) -> tuple[str, ...]:
    known = recorded if isinstance(recorded, dict) else {}
    here = {**hardware(), "threads": torch.get_num_threads()}
    return tuple(
        f"{name}: recorded {known.get(name)!r:.80}, here {v!r:.80}" for name, v in here.items() if known.get(name) != v
    )


class _ReplayedPace(Pace):
    """The chunks that ran then may run now, and no others where the deadline cut the request."""

    def __init__(self, chunks: list[tuple[str, int]], cut: bool) -> None:
        super().__init__(lambda: 0.0, 1.0 if cut or chunks else math.inf)
        self._cut = cut
        self._left: dict[str, list[int]] = {}
        for stage, candidates in chunks:
            if candidates or stage == "user":
                self._left.setdefault(stage, []).append(candidates)

    def may_start(self) -> bool:
        return super().may_start() and (not self._cut or any(self._left.values()))

    def chunk_candidates(self, stage: str, fitting: int) -> int:
        sizes = self._left.get(stage, [])
        return sizes[0] if sizes else fitting

    def chunk(self, stage: str, candidates: int) -> Any:
        if (candidates or stage == "user") and self._left.get(stage):
            self._left[stage].pop(0)
        return super().chunk(stage, candidates)


class _ReplayingRanker(Ranker):
    """A ranker that decides from recorded inputs and runs recorded chunks."""

    def __init__(
        self,
        artifact: Artifact,
        log: EventLog,
        decision: object,
        chunks: list[tuple[str, int]],
        *,
        cut: bool,
        unread: bool,
    ) -> None:
        super().__init__(artifact, log, user_state_bytes=0)
        self._decision, self._chunks, self._cut = decision, chunks, cut
        if unread:
            self._history = _Unread(log, self.spec)
        self.told: list[str] = []

    def _pace(self, deadline_s: float) -> Pace:
        if deadline_s == math.inf:
            return super()._pace(deadline_s)
        return _ReplayedPace(self._chunks, self._cut)

    def _choose(self, job: Job, scores: Scores, pace: Pace, price: float | None = None) -> Depth:
        policy = self.generation.policy
        if self._decision is None or policy is None:
            return super()._choose(job, scores, pace, price)
        inputs = decision_inputs(fields_of(self._decision, ("inputs",), "decision record")["inputs"])
        seen = inputs_of(policy, job, scores, pace).signals
        if seen.to_plain() != inputs.signals.to_plain():
            self.told.append("the signals of level 0 come out otherwise; the recorded ones decide")
        depth = AdaptiveDepth.decide(policy, inputs)
        scores.reasons.extend(depth.reasons)
        return depth


class _Unread(HistoryReader):
    """The log could not be read then."""

    def read(self, generation: Generation, user: str, time_ms: int, pace: Pace, reasons: list[str]) -> EncodedHistory:
        return unread_history(generation, time_ms, reasons)


class _LogAsOf:
    """A log up to a position and an upsert; histories need no limit, as they are as of a time already."""

    def __init__(self, log: EventLog, position: int, last_upsert: int) -> None:
        self._log, self._position, self._last_upsert = log, position, last_upsert

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def scan(self, after: int = -1, until: int | None = None, **options: Any) -> Iterator[EventBatch]:
        """Events up to the recorded position."""
        return self._log.scan(after, self._position if until is None else min(until, self._position), **options)

    def upserts(self, after: int = -1) -> Iterator[tuple[int, bytes]]:
        """Upserts up to the recorded one."""
        for number, payload in self._log.upserts(after):
            if number > self._last_upsert:
                return
            yield number, payload
