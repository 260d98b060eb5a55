"""A recorded ranking is ranked again bit for bit, whatever was appended, upserted or cut since."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from asking import IDS, ask, one_event

from depthrank.engine import Ranker
from depthrank.engine.replay_ranking import rank_again
from depthrank.errors import ArtifactError, LogError
from depthrank.schema import Answer, Request

NOW_MS = 1_800_000_000_000


def recorded(ranker: Ranker, request: Request, **options: Any) -> tuple[Answer, Any]:
    answer = ranker.rank(request, record=True, **options)
    return answer, msgspec.json.decode(msgspec.json.encode(answer.record))


@pytest.fixture
def ranker(make_ranker: Callable[..., Ranker]) -> Ranker:
    return make_ranker()


REQUESTS = {
    "full": ask(top=12),
    "router": ask(mode="router"),
    "adaptive": ask(mode="adaptive", candidates=IDS, top=5),
    "adaptive within a budget": ask(mode="adaptive", candidates=IDS, top=5, budget=0.5),
    "all": ask(mode="adaptive", candidates="all", top=7),
    "with a deadline": ask(mode="adaptive", candidates=IDS, top=5, deadline_ms=10_000.0),
    "nobody knows the user": ask(user="stranger", mode="full"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_recorded_ranking_comes_out_bit_for_bit(ranker: Ranker, world: Any, name: str) -> None:
    answer, record = recorded(ranker, REQUESTS[name])
    again = rank_again(record, world.artifact, ranker.log)
    assert again.exact and again.differing == (), again
    assert [row[0] for row in again.order] == [item.item for item in answer.items]


def test_events_and_upserts_that_came_later_change_nothing(ranker: Ranker, world: Any) -> None:
    ranker.upsert_items({"item": ["i3"], "genre": ["noir"]})
    _, record = recorded(ranker, ask(mode="full"))
    ranker.append(one_event("u1", "i5", "click", NOW_MS))
    ranker.upsert_items({"item": ["i3", "i4"], "genre": ["drama", "western"]})
    assert rank_again(record, world.artifact, ranker.log).exact
    ranker.clock_ms[0] += 10  # type: ignore[attr-defined]
    _, later = recorded(ranker, ask(mode="full"))
    assert later["order"] != record["order"], "what came later does matter to a later request"


def test_a_state_that_was_extended_replays_within_rounding(ranker: Ranker, world: Any) -> None:
    for step, item in enumerate(("i1", "i2", "i9")):
        ranker.append(one_event("newcomer", item, "click", NOW_MS + step))
        ranker.clock_ms[0] = NOW_MS + 10 + step  # type: ignore[attr-defined]
        _, record = recorded(ranker, ask(user="newcomer", mode="full"))
    assert record["user_state"]["found"] == "extended"
    assert rank_again(record, world.artifact, ranker.log).agrees


def test_a_request_that_went_without_history_replays_without(
    ranker: Ranker, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> None:
        raise LogError("down")

    with monkeypatch.context() as patched:
        patched.setattr(ranker.log, "histories", down)
        _, record = recorded(ranker, ask(mode="full"))
    assert record["reasons"] and rank_again(record, world.artifact, ranker.log).exact
    record["reasons"] = []
    assert not rank_again(record, world.artifact, ranker.log).agrees


class Ticking:
    """A clock that moves 1 ms a reading."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


@pytest.mark.parametrize("deadline_ms", [1.0, 12.0, 16.0, 20.0, 24.0, 30.0])
def test_a_request_that_the_deadline_cut_is_cut_there_again(
    make_ranker: Callable[..., Ranker], world: Any, deadline_ms: float
) -> None:
    ranker = make_ranker(monotonic_s=Ticking())
    _, record = recorded(ranker, ask(mode="full", candidates=IDS, deadline_ms=deadline_ms))
    again = rank_again(record, world.artifact, ranker.log)
    assert again.exact, (record["chunks"], record["stopped"], again)


def test_cutting_happens_at_some_of_these_deadlines_and_not_at_others(make_ranker: Callable[..., Ranker]) -> None:
    stopped = [
        recorded(make_ranker(monotonic_s=Ticking()), ask(mode="full", candidates=IDS, deadline_ms=ms))[1]["stopped"]
        for ms in (1.0, 16.0, 1e6)
    ]
    assert "before anything" in stopped[0] and "deadline" in stopped[1] and "deadline" not in stopped[2]


def test_an_altered_record_does_not_agree(ranker: Ranker, world: Any) -> None:
    _, record = recorded(ranker, ask(mode="full"))
    record["order"][0], record["order"][1] = record["order"][1], record["order"][0]
    assert not rank_again(record, world.artifact, ranker.log).agrees
    record["order"][0], record["order"][1] = record["order"][1], record["order"][0]
    record["order"][0][1] *= 1.001
    assert not rank_again(record, world.artifact, ranker.log).agrees
    record["hardware"]["cpu"] = "abacus"
    assert "cpu" in rank_again(record, world.artifact, ranker.log).differing[0]


@pytest.mark.parametrize(
    "damage", [{"model": "other"}, {"format": 99}, {"chunks": "many"}, {"request": {}}, {"order": [[1]]}]
)
def test_a_damaged_record_is_one_clear_error(ranker: Ranker, world: Any, damage: dict[str, Any]) -> None:
    _, record = recorded(ranker, ask(mode="router"))
    with pytest.raises(ArtifactError):
        rank_again({**record, **damage}, world.artifact, ranker.log)


def test_without_being_asked_for_there_is_no_record(ranker: Ranker) -> None:
    assert ranker.rank(ask()).record is msgspec.UNSET
    assert b"record" not in msgspec.json.encode(ranker.rank(ask()))


@pytest.fixture
def pair(make_ranker: Callable[..., Ranker]) -> Iterator[tuple[Ranker, Ranker]]:
    first = make_ranker()
    yield first, Ranker(first.artifact, first.log, clock=lambda: first.clock_ms[0])  # type: ignore[attr-defined]


def test_two_rankers_over_one_log_stay_equal(pair: tuple[Ranker, Ranker]) -> None:
    """What one appends, upserts or erases, the other takes over when told; their answers are the same then."""
    first, second = pair
    event = one_event("u1", "i5", "click", NOW_MS)
    first.append(event)
    second.observe(event)
    first.clock_ms[0] += 3_600_000  # type: ignore[attr-defined]
    assert values(first) == values(second)
    before = values(first)
    first.erase("u1")
    second.forget("u1")
    assert values(first) == values(second) != before


def values(ranker: Ranker) -> list[tuple[str, float]]:
    return [(item.item, item.value) for item in ranker.rank(ask(mode="full")).items]


def test_upserts_reach_the_other_ranker_even_where_they_do_not_fit_it(make_ranker: Callable[..., Ranker]) -> None:
    first = make_ranker()
    second = make_ranker()
    first.upsert_items({"item": ["i3", "fresh"], "genre": ["noir", "drama"]})
    second.apply_upserts()
    assert second.items.ids_of([second.items.size - 1]) == ["fresh"]
    assert values(first) == values(second)
    assert second.generation.last_upsert == first.generation.last_upsert == 0
