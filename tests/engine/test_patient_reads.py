"""A log that hangs costs a request its patience once, and the others nothing; when it is back, reads go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from asking import ask, shown

from depthrank.engine import Ranker
from depthrank.engine.patient_reads import PatientReads
from depthrank.errors import LogError


def test_a_read_in_time_gives_what_it_read_and_an_error_as_it_was() -> None:
    reads = PatientReads(patience_s=30)
    assert reads.read(lambda: 7, 1e9) == 7

    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        reads.read(fails, 1e9)
    assert reads.overdue == 0


def test_after_a_hanging_read_others_are_refused_at_once_until_it_comes_back() -> None:
    reads, release = PatientReads(patience_s=0.01), threading.Event()
    with pytest.raises(LogError, match="did not answer within 10 ms"):
        reads.read(release.wait, 1e9)
    asked = []
    with pytest.raises(LogError, match="an earlier read"):
        reads.read(lambda: asked.append(1), 1e9)
    assert asked == [] and reads.overdue == 1
    release.set()
    came_back = threading.Event()
    while reads.overdue:
        came_back.wait(0.001)
    assert reads.read(lambda: "again", 1e9) == "again"


def test_a_request_with_a_deadline_waits_half_of_what_it_has() -> None:
    release = threading.Event()
    with pytest.raises(LogError, match="within 4 ms"):
        PatientReads(patience_s=10).read(release.wait, 0.008)
    release.set()


def test_a_request_over_a_hanging_log_is_ranked_without_history_and_says_so(
    make_ranker: Callable[..., Ranker], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ranker, release = make_ranker(), threading.Event()
    histories = ranker.log.histories

    def hangs(*arguments: Any) -> Any:
        assert release.wait(30)
        return histories(*arguments)

    usual = shown(ranker.rank(ask()))
    monkeypatch.setattr(ranker.log, "histories", hangs)
    ranker._history.patient = patient = PatientReads(patience_s=0.02)
    answers = [ranker.rank(ask()) for _ in range(5)]
    assert all(a.degraded.reasons == ["the event log cannot be read: ranked without history"] for a in answers)
    assert ranker.measures()["histories_unread"] == 5 and ranker.measures()["log_down"] == 1
    assert sum("cannot be read" in r.getMessage() for r in caplog.records) == 1, "once a trouble, not once a request"
    release.set()
    while patient.overdue:
        threading.Event().wait(0.001)
    back = ranker.rank(ask())
    assert not back.degraded.is_ and shown(back) == usual and ranker.measures()["log_down"] == 0
