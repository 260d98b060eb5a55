"""Drift by hour goes on after a restart."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from ranker_double import small_spec

from depthrank.schema import Answer, Degraded, RankedItem, Request
from depthrank.server.decisions.drift import HOUR_MS, Drift
from depthrank.server.decisions.drift_file import EVERY_S, DriftFile

T0 = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def show(drift: Drift, request_id: str, probability: float, at_ms: int, user: str = "u") -> None:
    item = RankedItem("a", probability, {"click": probability, "like": probability}, 1)
    answer = Answer(request_id, "m", [item], [1], [1], {}, Degraded())
    drift.shown(Request(user=user, candidates=["a"], time_ms=at_ms), answer, at_ms)


def after_a_restart(folder: Path) -> tuple[Drift, DriftFile]:
    drift = Drift(small_spec())
    file = DriftFile(folder, drift)
    file.load()
    return drift, file


def test_hours_go_on_where_they_were_and_the_same_hour_is_added_to(tmp_path: Path) -> None:
    first, file = after_a_restart(tmp_path / "decisions")
    show(first, "r1", 0.25, T0)
    first.close_until(T0 + HOUR_MS)
    show(first, "waits", 0.5, T0 + HOUR_MS)
    file.save()
    second, file = after_a_restart(tmp_path / "decisions")
    assert second.plain() == first.plain() and second.plain()
    show(second, "r2", 0.5, T0 + 1)
    second.close_until(T0 + HOUR_MS)
    assert [hour["impressions"] for hour in second.plain() if hour["task"] == "click"] == [2]
    file.save()
    assert after_a_restart(tmp_path / "decisions")[0].plain() == second.plain()


def test_the_file_names_no_user(tmp_path: Path) -> None:
    drift, file = after_a_restart(tmp_path)
    show(drift, "r1", 0.25, T0, user="somebody")
    drift.close_until(T0 + HOUR_MS)
    show(drift, "r2", 0.25, T0 + HOUR_MS, user="somebody")
    file.save()
    assert (
        b"click" in (tmp_path / "drift.json").read_bytes() and b"somebody" not in (tmp_path / "drift.json").read_bytes()
    )


@pytest.mark.parametrize("text", ["", "{", '{"format": 2, "hours": []}', '{"format": 1, "hours": [{"hour": -1}]}'])
def test_a_file_that_cannot_be_read_is_told_and_the_figures_begin_anew(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "drift.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        drift, file = after_a_restart(tmp_path)
    assert drift.plain() == [] and "begins anew" in caplog.text
    show(drift, "r1", 0.25, T0)
    drift.close_until(T0 + HOUR_MS)
    file.save()
    assert after_a_restart(tmp_path)[0].plain() == drift.plain()


def test_it_is_due_once_a_minute_and_an_unchanged_one_is_not_written(tmp_path: Path) -> None:
    now_s = [0.0]
    file = DriftFile(tmp_path, Drift(small_spec()), lambda: now_s[0])
    assert not file.is_due()
    now_s[0] = EVERY_S
    assert file.is_due() and not file.is_due()
    file.save()
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_nothing_is_kept() -> None:
    now_s = [0.0]
    file = DriftFile(None, Drift(small_spec()), lambda: now_s[0])
    now_s[0] = 2 * EVERY_S
    file.load()
    file.save()
    assert not file.is_due()
