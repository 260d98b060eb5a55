"""A delta in service: answers are those of the new artifact, a request sees one generation, and nothing is lost."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import ask, one_event, shown

from depthrank.artifact import Artifact, Cache, Contents, load_artifact, make_delta, save_artifact
from depthrank.artifact.delta_apply import with_parts, with_tables
from depthrank.engine import Ranker
from depthrank.engine.generation import Generation
from depthrank.engine.overlay_ages import StateAges, share_of
from depthrank.engine.replay_ranking import rank_again
from depthrank.errors import ArtifactError
from depthrank.tables import PackedRows, served_tables

USERS = [f"u{i}" for i in range(6)]


def later(artifact: Artifact, step: int, *, dense: bool) -> Artifact:
    """What a later training run might have made: other rows in every table, and other dense weights."""
    generator = torch.Generator().manual_seed(step)
    sources = {}
    for name, table in served_tables(artifact.model).items():
        packed = table.source.packed_VB.clone()
        rows = torch.arange(2 + step, packed.shape[0], 4)
        rows = rows[~torch.isin(rows, table.row_map.padding_rows())]
        packed[rows] += torch.randn(len(rows), packed.shape[1], generator=generator)
        sources[name] = PackedRows(packed, table.source.form, table.source.width)
    model, adaptive = with_tables(artifact.model, sources), artifact.adaptive
    if dense:
        model = with_parts(model, {}, {n: t * 1.2 for n, t in model.state_dict().items() if n.endswith("weight")})
        adaptive = None  # it was fitted for the former weights
    return replace(artifact, model=model, adaptive=adaptive)


def save(artifact: Artifact, out: Path) -> Path:
    a = artifact
    contents = Contents(a.spec, a.model, a.encoder, a.items, a.users, a.manifest.log_position, adaptive=a.adaptive)
    save_artifact(out, contents)
    return out


@pytest.fixture(scope="module")
def steps(world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """New artifacts and the deltas to them: rows alone, then rows and dense weights."""
    here = tmp_path_factory.mktemp("steps")
    artifact, new, deltas = load_artifact(world.artifact), [], []
    for step, dense in enumerate((False, True)):
        artifact = later(artifact, step, dense=dense)
        new.append(save(artifact, here / f"new{step}"))
        deltas.append(make_delta(world.artifact, new[-1], here / "deltas"))
    return {"new": new, "deltas": deltas}


def answers(ranker: Ranker) -> list[Any]:
    asked = [ask(user=user, mode=mode) for user in USERS for mode in ("full", "adaptive", "router")]
    return [shown(ranker.rank(request)) for request in asked]


@pytest.mark.parametrize("num_deltas", [1, 2])
def test_answers_are_those_of_a_server_that_loaded_the_new_artifact(make_ranker, steps, num_deltas):
    ranker, fresh = make_ranker(), make_ranker(artifact=steps["new"][num_deltas - 1])
    before = answers(ranker)
    for delta in steps["deltas"][:num_deltas]:
        report = ranker.apply_delta(delta)
    found = answers(ranker)
    assert all(map(close, found, answers(fresh))) and not any(map(close, found, before))
    assert report.sequence == num_deltas and report.rows and ranker.info()["deltas"] == num_deltas
    assert ranker.rank(ask()).model == f"{ranker.artifact.manifest.model_id}+{num_deltas}" == ranker.model_id


def test_a_server_that_starts_with_deltas_answers_as_one_that_was_given_them(world, make_ranker, steps):
    given = make_ranker()
    for delta in steps["deltas"]:
        given.apply_delta(delta)
    loaded = Ranker.load(world.artifact, given.log, deltas=steps["deltas"][0].parent)
    assert loaded.model_id == given.model_id
    wanted = ask(time_ms=given.clock_ms[0])
    assert shown(loaded.rank(wanted)) == shown(given.rank(wanted))


def test_a_decision_made_under_a_delta_is_made_again_from_the_artifact_and_its_deltas(world, make_ranker, steps):
    ranker = make_ranker()
    for delta in steps["deltas"]:
        ranker.apply_delta(delta)
    record = ranker.rank(ask(time_ms=ranker.clock_ms[0]), record=True).record
    again = rank_again(record, world.artifact, ranker.log, steps["deltas"][0].parent)
    assert again.agrees and record["model"].endswith("+2")
    with pytest.raises(ArtifactError, match="the folder of its deltas"):
        rank_again(record, world.artifact, ranker.log)


def test_a_delta_that_is_refused_changes_nothing(make_ranker, steps):
    ranker = make_ranker()
    before = answers(ranker)
    with pytest.raises(ArtifactError, match="apply number 1 first"):
        ranker.apply_delta(steps["deltas"][1])
    prepared = ranker.prepare_delta(steps["deltas"][0])
    ranker.apply_delta(steps["deltas"][0])
    with pytest.raises(ArtifactError, match=r"was prepared for world-.*: prepare it again"):
        ranker.publish_delta(prepared)
    with pytest.raises(ArtifactError, match="applied already"):
        ranker.apply_delta(steps["deltas"][0])
    assert ranker.info()["deltas"] == 1 and answers(ranker) != before


class Interruption:
    """A clock that publishes a delta the ``at``-th time a request asks for the time."""

    def __init__(self) -> None:
        self.at, self.asked, self.publish = -1, 0, lambda: None

    def __call__(self) -> float:
        self.asked += 1
        if self.asked == self.at:
            thread = threading.Thread(target=self.publish)
            thread.start()
            thread.join()
        return 0.0


@dataclass
class Across:
    """A ranker without a state cache, one delta before ``delta``, which is prepared and published at some moment."""

    ranker: Ranker
    delta: Path
    clock: Interruption

    def rank(self, at: int) -> tuple[Any, int]:
        """What one request shows with the delta published at its ``at``-th look at the clock (-1: never), and the
        deltas that its answer names. Afterwards the ranker serves what it did before."""
        ranker, before, store = self.ranker, self.ranker.generation, self.ranker.generation.store
        prepared = ranker.prepare_delta(self.delta)
        self.clock.publish = lambda: ranker.publish_delta(prepared)
        self.clock.asked, self.clock.at = 0, at
        answer = ranker.rank(ask(explain=True))
        ranker._switch.generation, before.upserted.store = before, store
        return shown(answer), int(answer.model.partition("+")[2] or 0)


@pytest.fixture
def across(make_ranker, steps) -> Across:
    """Over the delta with dense weights: it makes an item store of its own, so that all can be put back."""
    clock = Interruption()
    ranker = make_ranker(monotonic_s=clock, user_state_bytes=0)
    ranker.apply_delta(steps["deltas"][0])
    return Across(ranker, steps["deltas"][1], clock)


def test_a_request_is_of_one_generation_wherever_in_it_the_delta_is_published(across):
    old, _ = across.rank(-1)
    moments = across.clock.asked
    new, first = across.rank(1)
    assert first == 2 and not close(new, old) and moments > 10
    found = [across.rank(at) for at in range(2, moments + 1)]
    assert all(shown in ((old, 1), (new, 2)) for shown in found)
    assert found[-1] == (old, 1), "a request keeps what it began with"


def test_a_generation_that_changed_in_place_would_be_seen(across, monkeypatch):
    def in_place(self: Generation, artifact: Artifact, store: Any, *, same_encoder: bool) -> Generation:
        self.artifact = artifact
        return self

    old, _ = across.rank(-1)
    moments = across.clock.asked
    new, _ = across.rank(1)
    monkeypatch.setattr(Generation, "after", in_place)
    artifact, mixed = across.ranker.artifact, []
    for at in range(2, moments + 1):
        mixed.append(across.rank(at)[0] not in (old, new))
        across.ranker.generation.artifact = artifact
    assert any(mixed)


@pytest.mark.parametrize("at", [1, 3, 5, 9])
def test_rows_alone_are_published_between_requests_too(make_ranker, steps, at):
    clock, fresh = Interruption(), make_ranker(artifact=steps["new"][0])
    ranker = make_ranker(monotonic_s=clock)
    expected = shown(ranker.rank(ask())), shown(fresh.rank(ask()))
    prepared = ranker.prepare_delta(steps["deltas"][0])
    clock.publish = lambda: ranker.publish_delta(prepared)
    clock.asked, clock.at = 0, at
    answer = ranker.rank(ask())
    assert close(shown(answer), expected["+" in answer.model]) and "+" in ranker.rank(ask()).model


def test_many_threads_never_see_a_mixture_while_deltas_arrive(make_ranker, steps):
    asked = [ask(user=user, time_ms=1_790_000_000_000) for user in USERS]
    expected = {}
    for sequence, options in enumerate(({}, {"artifact": steps["new"][0]}, {"artifact": steps["new"][1]})):
        fresh = make_ranker(**options)
        expected[sequence] = [shown(fresh.rank(request)) for request in asked]
    ranker, wrong, done, seen = make_ranker(), list[str](), threading.Event(), set[int]()

    def rank() -> None:
        while not done.is_set():
            for k, request in enumerate(asked):
                answer = ranker.rank(request)
                sequence = int(answer.model.partition("+")[2] or 0)
                seen.add(sequence)
                if not close(shown(answer), expected[sequence][k]):
                    wrong.append(f"{request.user} by {answer.model}")

    threads = [threading.Thread(target=rank) for _ in range(3)]
    for thread in threads:
        thread.start()
    for delta in steps["deltas"]:
        ranker.apply_delta(delta)
    last = ranker.rank(asked[0])
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and last.model.endswith("+2") and close(shown(last), expected[2][0])


def close(one: list[Any], other: list[Any]) -> bool:
    """The same but for rounding: a state that is extended is encoded in other pieces."""
    same = [row[:2] for row in one] == [row[:2] for row in other]
    return same and all(abs(a[2] - b[2]) <= 1e-4 * abs(b[2]) for a, b in zip(one, other, strict=True))


def test_an_upsert_before_during_or_after_is_ranked_by_the_new_model(make_ranker, steps):
    fresh = make_ranker(artifact=steps["new"][1])
    ranker = make_ranker()
    ranker.upsert_items({"item": ["n1"], "genre": ["noir"], "title": ["a"]})
    for delta in steps["deltas"]:
        prepared = ranker.prepare_delta(delta)
        ranker.upsert_items({"item": ["n2", "i3"], "genre": ["noir", "western"], "title": ["b", "c"]})
        ranker.publish_delta(prepared)
    ranker.upsert_items({"item": ["n3"], "genre": ["drama"], "title": ["d"]})
    fresh.apply_upserts()
    wanted = ask(candidates=["n1", "n2", "n3", "i3", "i4"])
    assert close(shown(ranker.rank(wanted)), shown(fresh.rank(wanted)))


# ---------------------------------------------------------------------- states of an older generation


def test_states_from_before_a_delta_serve_for_their_age_and_are_reported(make_ranker, steps):
    now_s = [0.0]
    ranker, strict = make_ranker(state_max_age_s=100.0, monotonic_s=lambda: now_s[0]), make_ranker()
    wanted = ask(user="visitor", explain=True, time_ms=ranker.clock_ms[0])
    for item in ("i1", "i2", "i3"):
        ranker.append(one_event("visitor", item, "click", ranker.clock_ms[0] - 9))
    for one in (ranker, strict):
        one.rank(wanted)
        for delta in steps["deltas"]:
            one.apply_delta(delta)
    answer = ranker.rank(wanted)
    assert answer.explain["user_state"]["older"] is True and ranker.measures()["user_states_older"] == 1
    assert not close(shown(answer), shown(strict.rank(wanted))), "it is another state"
    assert strict.measures()["user_states_older"] == 0
    ranker.append(one_event("visitor", "i7", "click", ranker.clock_ms[0] - 5))
    state = ranker.rank(wanted).explain["user_state"]
    assert state == {"found": "extended", "new_tokens": 1, "older": True}, "and still of that age"
    now_s[0] = 100.0
    answer = ranker.rank(wanted)
    assert answer.explain["user_state"]["older"] is False and close(shown(answer), shown(strict.rank(wanted)))


def test_a_delta_that_a_history_does_not_read_leaves_its_state_as_it_is(make_ranker, steps, monkeypatch):
    ranker = make_ranker()
    ranker.rank(ask())
    monkeypatch.setattr("depthrank.engine.overlay._rows_that_read", lambda *_: torch.zeros(0).long().numpy())
    ranker.apply_delta(steps["deltas"][0])
    ranker.rank(ask())
    measures = ranker.measures()
    assert (measures["user_states_warm"], measures["user_states_cold"]) == (1, 1)


def test_expiry_spreads_over_the_age():
    shares = sorted(share_of(f"user {i}") for i in range(1000))
    assert 0 < shares[0] < 0.02 and 0.98 < shares[-1] <= 1 and 0.4 < shares[500] < 0.6
    now_s = [5.0]
    ages = StateAges(10.0, lambda: now_s[0])
    assert not ages.may_serve(0, "u"), "no delta outdated it"
    ages.publish(1)
    assert ages.may_serve(0, "u") and not ages.may_serve(1, "u")
    ages.publish(2)
    now_s[0] = 5.0 + 10.0 * share_of("u")
    assert not ages.may_serve(0, "u"), "since the first delta after it"
    assert not StateAges(0.0, lambda: 0.0).may_serve(0, "u")


# ---------------------------------------------------------------------- compaction


def test_compaction_changes_no_answer_and_is_shared(make_ranker, steps, tmp_path):
    cache = Cache(tmp_path / "cache")
    ranker, other = make_ranker(), make_ranker()
    for one in (ranker, other):
        assert not one.compact(cache), "there is nothing to compact"
        one.apply_delta(steps["deltas"][0])
    assert ranker.info()["rows_changed"] > 0
    before = answers(ranker)
    assert ranker.compact(cache) and answers(ranker) == before
    assert ranker.info()["rows_changed"] == 0 and ranker.info()["deltas"] == 1
    written = {path: path.stat().st_mtime_ns for path in cache.root.rglob("*.rows")}
    assert other.compact(cache) and answers(other) == before
    assert {path: path.stat().st_mtime_ns for path in cache.root.rglob("*.rows")} == written
    for one in (ranker, other):
        one.apply_delta(steps["deltas"][1])
    assert all(map(close, answers(ranker), answers(make_ranker(artifact=steps["new"][1]))))
