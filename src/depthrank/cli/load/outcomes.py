"""What became of each request: a histogram of latencies, counts by kind, and a time line."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

LONGEST_US = 3_600_000_000
SIGNIFICANT_DIGITS = 3
GOOD, LATE, FAILED = 1, 0, -1


class _Item(msgspec.Struct):
    level: int = 0


class _Degraded(msgspec.Struct, rename={"is_": "is"}):
    is_: bool = False
    reasons: list[str] = []


class AnswerSeen(msgspec.Struct):
    """The part of an answer that figures need; a server of another make may leave any of it out."""

    items: list[_Item] = []
    degraded: _Degraded = msgspec.field(default_factory=_Degraded)
    candidates_scored: list[int] = []


_DECODER = msgspec.json.Decoder(AnswerSeen)


def histogram() -> Any:
    """Microseconds up to an hour, exact to three digits."""
    return HdrHistogram(1, LONGEST_US, SIGNIFICANT_DIGITS)


@dataclass
class Outcomes:
    """Requests that were due within the measured window; times in seconds from its start.

    ``limit_ms``: an answer within it, scored by level 0 at least, is good. ``lag``: how late the client sent.
    """

    limit_ms: float | None = None
    latency: Any = field(default_factory=histogram)
    lag: Any = field(default_factory=histogram)
    sent: int = 0
    good: int = 0
    degraded: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    scored: list[int] = field(default_factory=list)
    last_good_s: float = 0.0
    due_s: array[float] = field(default_factory=lambda: array("d"))
    took_ms: array[float] = field(default_factory=lambda: array("d"))
    became: array[int] = field(default_factory=lambda: array("b"))

    @property
    def answered(self) -> int:
        """Requests that got a 200."""
        return int(self.latency.get_total_count())

    @property
    def errors(self) -> int:
        return sum(self.failures.values())

    def left(self, lag_s: float) -> None:
        """A request was sent, so late."""
        self.sent += 1
        self.lag.record_value(max(1, int(lag_s * 1e6)))

    def came(self, due_s: float, now_s: float, status: int, body: bytes, why: str | None) -> None:
        """A request that was due at ``due_s`` has its answer or its failure."""
        took_ms = (now_s - due_s) * 1e3
        kind = FAILED
        if why is not None or status != 200:
            self._failed(why or str(status))
        else:
            kind = self._answered(now_s, took_ms, body)
        self.due_s.append(due_s)
        self.took_ms.append(took_ms)
        self.became.append(kind)

    def _failed(self, what: str) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1

    def _answered(self, now_s: float, took_ms: float, body: bytes) -> int:
        try:
            answer = _DECODER.decode(body)
        except msgspec.DecodeError:
            self._failed("200 without a readable body")
            return FAILED
        self.latency.record_value(max(1, int(took_ms * 1e3)))
        self._depth(answer)
        in_time = self.limit_ms is None or took_ms <= self.limit_ms
        if not (in_time and all(item.level >= 0 for item in answer.items)):
            return LATE
        self.good += 1
        self.last_good_s = max(self.last_good_s, now_s)
        return GOOD

    def _depth(self, answer: AnswerSeen) -> None:
        if answer.degraded.is_:
            self.degraded += 1
            for reason in answer.degraded.reasons:
                kind = reason.partition(":")[0][:60]
                self.reasons[kind] = self.reasons.get(kind, 0) + 1
        scored = answer.candidates_scored
        self.scored += [0] * (len(scored) - len(self.scored))
        for level, number in enumerate(scored):
            self.scored[level] += number

    def percentiles_ms(self) -> dict[str, float]:
        """Latency of answers, by name; raises ValueError where there is none."""
        if not self.answered:
            raise ValueError("no request was answered")
        named = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p999_ms": 99.9, "max_ms": 100}
        return {name: round(self.latency.get_value_at_percentile(p) / 1e3, 3) for name, p in named.items()}

    def lag_p99_ms(self) -> float:
        """How late this client sent, at the 99th percentile."""
        return round(self.lag.get_value_at_percentile(99) / 1e3, 3) if self.sent else 0.0

    def time_line(self) -> dict[str, npt.NDArray[np.float64]]:
        """By second of the intended time: requests due, good answers, p50 and p99 of answers (NaN: none)."""
        due, took, became = (np.array(column) for column in (self.due_s, self.took_ms, self.became))
        seconds = np.arange(int(due.max(initial=0.0)) + 1)
        bucket = due.astype(np.int64)
        line = {name: np.full(seconds.size, np.nan) for name in ("p50_ms", "p99_ms")}
        for second in seconds:
            answered = took[(bucket == second) & (became != FAILED)]
            if answered.size:
                line["p50_ms"][second], line["p99_ms"][second] = np.percentile(answered, [50, 99])
        counts = {"due": bucket, "good": bucket[became == GOOD]}
        line |= {name: np.bincount(of, minlength=seconds.size).astype(np.float64) for name, of in counts.items()}
        return {"second": seconds.astype(np.float64), **line}
