"""Versions under one roof: who answers whom, who hears of what, and when a version is let go."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_server_limits import until
from version_double import Loader, VersionDouble

from depthrank.errors import ArtifactError, FieldProblem, RequestError
from depthrank.events import EventBatch
from depthrank.schema import Request
from depthrank.server.models import ModelConflictError, Models, ModelSettings
from depthrank.server.models.rollback_rule import CanaryRule

USERS = [f"u{i}" for i in range(2_000)]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Setting:
    """A registry with ``one`` stable, a loader, and a clock."""

    def __init__(self, **settings: Any) -> None:
        self.one = VersionDouble("one")
        self.load = Loader(self.one)
        self.clock = Clock()
        self.models = Models(
            self.one, self.load, ModelSettings(**settings), path="models/one", owns_first=True, clock_s=self.clock
        )

    def rank(self, user: str = "u") -> str:
        return self.models.rank(Request(user=user, candidates=["1", "2"], time_ms=5), arrived_s=0.0).model


@pytest.fixture
def world_of_two() -> Setting:
    made = Setting()
    made.models.load(Path("models/two"))
    return made


def test_a_loaded_version_answers_nobody_until_it_has_a_label(world_of_two: Setting) -> None:
    assert {world_of_two.rank(user) for user in USERS[:50]} == {"one"}
    world_of_two.models.label("two", "stable")
    assert {world_of_two.rank(user) for user in USERS[:50]} == {"two"}


def test_a_canary_answers_its_share_of_the_users_and_always_the_same_ones(world_of_two: Setting) -> None:
    world_of_two.models.label("two", "canary", 0.2)
    first = {user: world_of_two.rank(user) for user in USERS}
    share = Counter(first.values())["two"] / len(USERS)
    assert 0.16 < share < 0.24
    assert {user: world_of_two.rank(user) for user in USERS[:200]} == {user: first[user] for user in USERS[:200]}


def test_another_canary_gets_other_users(world_of_two: Setting) -> None:
    models = world_of_two.models
    models.load(Path("models/three"))
    models.label("two", "canary", 0.2)
    second = {user for user in USERS if world_of_two.rank(user) == "two"}
    models.label("three", "canary", 0.2)
    third = {user for user in USERS if world_of_two.rank(user) == "three"}
    assert len(second & third) / len(second) < 0.4


def test_a_version_is_closed_when_its_last_request_is_done_and_not_before(world_of_two: Setting) -> None:
    models, one = world_of_two.models, world_of_two.one
    lease = models.choose("u")
    assert lease.version.model == "one"
    version = lease.version
    models.label("two", "stable")
    models.unload("one")
    assert not version.closed.is_set() and lease.ranker is one
    lease.release()
    assert version.closed.wait(10) and one.closed
    lease.release()
    assert models.versions[0].model == "two" and models.versions[0].leases == 0


def test_a_rollback_exchanges_stable_and_its_predecessor_and_back(world_of_two: Setting) -> None:
    models = world_of_two.models
    with pytest.raises(ModelConflictError, match="neither a canary nor a predecessor"):
        models.roll_back()
    models.label("two", "stable")
    assert models.roll_back("worse") == "two" and world_of_two.rank() == "one"
    assert next(v.note for v in models.versions if v.model == "two") == "rolled back: worse"
    assert models.roll_back() == "one" and world_of_two.rank() == "two"


def test_of_the_predecessors_only_the_last_is_kept(world_of_two: Setting) -> None:
    models = world_of_two.models
    first = models.labels.stable
    models.label("two", "stable")
    assert not first.retired
    models.load(Path("models/three"), "stable")
    assert sorted(v.model for v in models.versions) == ["three", "two"]
    assert first.closed.wait(10) and world_of_two.one.closed
    tight = Setting(keep_previous=False)
    tight.models.load(Path("models/two"), "stable")
    assert [v.model for v in tight.models.versions] == ["two"]


def test_a_canary_is_promoted_or_rolled_back_by_one_call(world_of_two: Setting) -> None:
    models = world_of_two.models
    with pytest.raises(ModelConflictError, match="no canary"):
        models.promote()
    models.label("two", "canary", 1.0)
    assert world_of_two.rank() == "two"
    assert models.roll_back() == "two" and world_of_two.rank() == "one"
    models.label("two", "canary", 1.0)
    assert models.promote() == "two"
    assert models.labels.canary is None and models.labels.stable.model == "two"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.unload("one"), "one is stable"),
        (lambda m: m.label("one", "canary"), "one is stable"),
        (lambda m: m.label("none", "canary"), "'none' is not loaded; loaded: one, two"),
        (lambda m: m.unload("none"), "not loaded"),
        (lambda m: m.load(Path("elsewhere/two")), "two is loaded already"),
    ],
)
def test_what_does_not_fit_is_refused_in_words_and_changes_nothing(
    world_of_two: Setting, call: Any, words: str
) -> None:
    before = world_of_two.models.labels
    with pytest.raises(ModelConflictError, match=words):
        call(world_of_two.models)
    assert world_of_two.models.labels == before and len(world_of_two.models.versions) == 2


def test_a_version_that_cannot_be_loaded_or_warmed_leaves_nothing_behind(world_of_two: Setting) -> None:
    models, load = world_of_two.models, world_of_two.load
    with pytest.raises(ArtifactError):
        models.load(Path("models/broken"))
    load.gate.clear()
    made: list[VersionDouble] = []

    def cold(path: Path) -> VersionDouble:
        version = VersionDouble(path.name)
        version.warm = lambda: (_ for _ in ()).throw(RuntimeError("no kernel"))  # type: ignore[method-assign]
        made.append(version)
        return version

    models._load = cold
    with pytest.raises(RuntimeError, match="no kernel"):
        models.load(Path("models/cold"))
    assert made[0].closed and models.loading is None and len(models.versions) == 2


def test_only_one_load_at_a_time(world_of_two: Setting) -> None:
    models, load = world_of_two.models, world_of_two.load
    load.gate.clear()
    load.entered.clear()
    thread = threading.Thread(target=models.load, args=(Path("models/three"),))
    thread.start()
    try:
        assert load.entered.wait(10) and models.loading == "three"
        with pytest.raises(ModelConflictError, match="three is being loaded"):
            models.load(Path("models/four"))
    finally:
        load.gate.set()
        thread.join(10)
    assert models.loading is None


def test_every_version_hears_of_events_upserts_and_erasures_once(world_of_two: Setting) -> None:
    models, (two,) = world_of_two.models, world_of_two.load.made
    two.told.clear()
    models.append(EventBatch(["u"], ["5"], ["click"], np.array([1])))
    models.upsert_items({"item": ["5"], "year": [1999]})
    models.erase("u")
    assert two.told == [("observe", ["5"]), "upserts", ("forget", "u")]
    assert world_of_two.one.told == [], "stable did it itself"
    assert len(world_of_two.one.batches) == 1 and two.batches == [], "the log was appended to once"


def test_what_happens_while_a_version_loads_reaches_it_on_its_way_in(world_of_two: Setting) -> None:
    models, load = world_of_two.models, world_of_two.load
    load.gate.clear()
    load.entered.clear()
    thread = threading.Thread(target=models.load, args=(Path("models/three"),))
    thread.start()
    assert load.entered.wait(10)
    models.erase("gone")
    load.gate.set()
    thread.join(10)
    assert load.made[-1].told == ["upserts", ("observe", []), ("forget", "gone")]


def test_a_version_that_cannot_follow_undoes_nothing_and_is_noted(world_of_two: Setting) -> None:
    models, (two,) = world_of_two.models, world_of_two.load.made
    two.observe = lambda events: (_ for _ in ()).throw(RuntimeError("lost"))  # type: ignore[method-assign]
    result = models.append(EventBatch(["u"], ["5"], ["click"], np.array([1])))
    assert result.appended == 1
    assert "could not follow" in next(v.note for v in models.versions if v.model == "two")


def test_users_of_a_failing_canary_are_answered_by_stable_and_it_loses_its_label(world_of_two: Setting) -> None:
    models, (two,) = world_of_two.models, world_of_two.load.made

    def broken() -> None:
        raise RuntimeError("NaN everywhere")

    two.rank_fault = broken
    models.label("two", "canary", 1.0)
    answered = []
    for _ in range(10):
        world_of_two.clock.now_s += 2
        answered.append(world_of_two.rank())
    assert answered == ["one"] * 10
    assert models.labels.canary is None and models.canary.rollbacks == 1
    note = next(v.note for v in models.versions if v.model == "two")
    assert note.startswith("rolled back: errors: ")


def test_a_dry_run_says_so_and_leaves_the_canary(world_of_two: Setting) -> None:
    dry = Setting(canary=CanaryRule(mode="dry_run"))
    dry.models.load(Path("models/two"), "canary", 1.0)
    dry.load.made[0].rank_fault = lambda: (_ for _ in ()).throw(RuntimeError("broken"))
    for _ in range(10):
        dry.clock.now_s += 2
        assert dry.rank() == "one"
    assert dry.models.labels.canary is not None
    assert dry.models.canary.verdict.rollback and dry.models.canary.rollbacks == 0


def test_a_clients_mistake_is_no_failure_of_the_canary(world_of_two: Setting) -> None:
    models, (two,) = world_of_two.models, world_of_two.load.made

    def wrong() -> None:
        raise RequestError("wrong:", [FieldProblem("$.candidates", "x", "y")])

    two.rank_fault = wrong
    models.label("two", "canary", 1.0)
    for _ in range(20):
        world_of_two.clock.now_s += 2
        with pytest.raises(RequestError):
            world_of_two.rank()
    assert models.labels.canary is not None
    assert next(v for v in models.versions if v.model == "two").recent.errors == 0


def test_answers_older_than_the_window_and_than_the_label_do_not_count(world_of_two: Setting) -> None:
    version = world_of_two.models.labels.stable
    for seconds in (0.1, 0.2, 0.3):
        version.recent.note(seconds)
        world_of_two.clock.now_s += 100
    assert version.recent.figures(1_000).answers == 3
    assert version.recent.figures(250).answers == 2
    assert version.recent.figures(1_000, since_s=1_150.0).answers == 1
    assert version.recent.answers == 3


def test_requests_switches_and_unloads_at_once_name_one_live_version_each() -> None:
    """Sixteen threads rank while versions come and go: no closed version ranks (the double asserts it), no error."""
    setting = Setting(keep_previous=False)
    stop, seen, wrong = threading.Event(), Counter[str](), list[BaseException]()

    def work(user: str) -> None:
        while not stop.is_set():
            try:
                seen[setting.rank(user)] += 1
            except BaseException as error:  # noqa: BLE001 - the test tells it
                wrong.append(error)
                return

    threads = [threading.Thread(target=work, args=(f"u{i}",)) for i in range(16)]
    for thread in threads:
        thread.start()
    for number in range(25):
        setting.models.load(Path(f"models/v{number}"), "stable")
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not wrong
    assert len(seen) > 3 and setting.models.switches == 25
    assert [v.model for v in setting.models.versions] == ["v24"]
    until(lambda: all(made.closed for made in setting.load.made[:-1]))  # they close in threads of their own
    assert not setting.load.made[-1].closed


def test_closing_closes_every_owned_version_and_no_borrowed_one() -> None:
    owned = Setting()
    owned.models.load(Path("models/two"))
    owned.models.close()
    assert owned.one.closed and owned.load.made[0].closed
    borrowed = VersionDouble("one")
    Models(borrowed).close()
    assert not borrowed.closed


def test_without_a_loader_a_load_is_refused() -> None:
    with pytest.raises(ModelConflictError, match="no way to load"):
        Models(VersionDouble("one")).load(Path("x"))
