"""Scores that are no numbers and logs that fail: the answer is less, is complete, and says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from asking import IDS, ask, shown

from depthrank.errors import LogError
from depthrank.features import HistoryCodes


def nan_for(model, monkeypatch, level: int, items: list[int]) -> None:
    """The logits of some candidates of a level become NaN, whichever chunk they are in."""
    probabilities = model.probabilities

    def patched(at: int, logits_NK: torch.Tensor) -> torch.Tensor:
        found = probabilities(at, logits_NK).clone()
        if at == level:
            found[items] = torch.nan
        return found

    monkeypatch.setattr(model, "probabilities", patched)


def test_candidates_without_a_number_at_the_deep_level_keep_the_router(make_ranker, monkeypatch):
    ranker = make_ranker()
    router = {i.item: i.value for i in ranker.rank(ask(mode="router")).items}
    nan_for(ranker.artifact.model, monkeypatch, 1, [0, 3])
    answer = ranker.rank(ask())
    kept = answer.items[-2:]
    assert [item.level for item in answer.items] == [1] * 28 + [0] * 2
    assert all(item.value == pytest.approx(router[item.item]) for item in kept)
    assert answer.degraded.reasons == ["level 1 gave no number for 2 candidates: they keep the level before"]


def test_candidates_without_any_number_come_last_in_input_order(make_ranker, monkeypatch):
    ranker = make_ranker()
    nan_for(ranker.artifact.model, monkeypatch, 0, [9, 2])
    answer = ranker.rank(ask(mode="router"))
    assert [(i.item, i.level, i.value) for i in answer.items[-2:]] == [("i2", -1, 0.0), ("i9", -1, 0.0)]
    assert answer.degraded.reasons == ["level 0 gave no number for 2 candidates: they are in input order"]


def test_a_model_of_nothing_but_nan_gives_input_order(make_ranker):
    ranker = make_ranker()
    with torch.no_grad():
        ranker.artifact.model.encoder.start_D.fill_(torch.nan)
    answer = ranker.rank(ask(candidates=IDS[10:20], explain=True))
    assert shown(answer) == [(item, -1, 0.0) for item in IDS[10:20]] and len(answer.degraded.reasons) == 2
    assert all(np.isfinite(i.value) and all(map(np.isfinite, i.scores.values())) for i in answer.items)


def failing(*args: object, **options: object) -> None:
    raise LogError("the disk is gone")


@pytest.mark.parametrize("where", ["histories", "codes"])
def test_a_log_that_cannot_be_read_costs_the_history_and_nothing_else(make_ranker, monkeypatch, where):
    ranker = make_ranker()
    without_history = shown(ranker.rank(ask(time_ms=1)))
    target = (ranker.log, "histories") if where == "histories" else (ranker.generation.codes, "_updated")
    if where == "codes":
        ranker.generation.codes = HistoryCodes(ranker.log, ranker.items, ranker.spec.history_actions)
        target = (ranker.generation.codes, "_updated")
    monkeypatch.setattr(*target, failing)
    answer = ranker.rank(ask(explain=True))
    assert answer.degraded.reasons == ["the event log cannot be read: ranked without history"]
    assert len(answer.items) == 30 and {item.level for item in answer.items} == {1}
    assert answer.explain["history_length"] == 0 and "Less than asked for" in answer.explain["story"][-1]
    monkeypatch.undo()
    assert not ranker.rank(ask()).degraded.is_, "and it is whole again when the log is"
    assert len(without_history) == 30


def test_a_closed_log_degrades_too(make_ranker):
    ranker = make_ranker()
    ranker.log.close()
    assert ranker.rank(ask()).degraded.reasons == ["the event log cannot be read: ranked without history"]
