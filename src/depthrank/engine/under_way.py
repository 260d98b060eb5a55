"""Requests between their start and their answer: each stops at the next piece of a deeper level, and goes on with what
came of it. One by one, or several at once, whose pieces share passes where that pays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from depthrank.engine.generation import Generation
from depthrank.engine.job import Choose, Job
from depthrank.engine.pace import Pace
from depthrank.engine.piece import Piece, Refined
from depthrank.engine.run_plan import Scores
from depthrank.engine.shared_pass import may_share, refine_together, to_share
from depthrank.tables import noting_missing_rows

T = TypeVar("T")


class UnderWay:
    """``piece``: what it asks for next; None once it is done, with ``scores``. ``started_s``: when its deadline began;
    ``last_upsert``: the newest it sees."""

    def __init__(
        self, job: Job, pace: Pace, choose: Choose, reasons: list[str], started_s: float, last_upsert: int
    ) -> None:
        self.job, self.pace, self.started_s, self.last_upsert = job, pace, started_s, last_upsert
        self.piece: Piece | None = None
        self.scores: Scores | None = None
        self._reasons, self._steps = reasons, job.steps(pace, choose)
        self.advance(None)

    def advance(self, refined: Refined | None) -> None:
        """Go on with what came of the piece (None: there was no time for it), until the next one or the end."""
        with noting_missing_rows() as missing:
            try:
                self.piece = self._steps.send(refined)
            except StopIteration as end:
                self.piece, self.scores = None, end.value
        self._reasons += [reason for reason in missing if reason not in self._reasons]
        if self.scores is not None:
            self.scores.reasons[:0] = self._reasons

    def finish(self) -> Scores:
        """Run what is left, alone."""
        while self.piece is not None:
            self.advance(self.piece.alone())
        assert self.scores is not None, "done"
        return self.scores


def finish_together(begun: Sequence[UnderWay | Exception], generation: Generation) -> list[UnderWay | Exception]:
    """Run several requests to their ends, pieces that pay in shared passes; in the place of one that fails, why."""
    found = list(begun)
    factors, model = generation.pass_factors, generation.artifact.model
    while pieces := [one.piece for one in found if isinstance(one, UnderWay) and one.piece is not None]:
        waiting = {id(one.piece): k for k, one in enumerate(found) if isinstance(one, UnderWay)}
        own = [piece for piece in pieces if piece.model is model]  # a delta may have come in between
        shared = to_share(own, generation.costs.rates, factors) if may_share(model) else None
        chosen = [waiting[id(piece)] for piece in (pieces[:1] if shared is None else shared[0])]
        try:
            results = [_alone(found[chosen[0]])] if shared is None else refine_together(*shared, factors)
            for k, refined in zip(chosen, results, strict=True):
                one = found[k]
                assert isinstance(one, UnderWay)
                one.advance(refined)
        except Exception as error:  # noqa: BLE001 - whoever asked for one of them gets it
            for k in chosen:
                found[k] = error
    return found


def _alone(one: UnderWay | Exception) -> Refined | None:
    """A piece by itself, where its deadline has not passed while others ran."""
    assert isinstance(one, UnderWay) and one.piece is not None
    return one.piece.alone() if one.pace.may_start() else None


def or_error(call: Callable[[], T]) -> T | Exception:
    """What a call returns, or what it raised: whoever asked for it gets that."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - of one request among several
        return error
