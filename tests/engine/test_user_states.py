"""The user-state cache: what it gives is what encoding the whole history anew would give, whatever happened."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoded_users import LENGTH, NUM_ITEMS, Items, differences, history_of, random_ranker
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.engine import user_side
from depthrank.engine.call_size import history_size
from depthrank.engine.user_side import UserSide, encode_user
from depthrank.engine.user_states import UserStates

KEY = ("model", "u1")
MODEL = random_ranker()
TOLERANCE = 1e-5
Token = tuple[int, int, int]

token = st.tuples(st.integers(0, NUM_ITEMS), st.integers(1, 3), st.integers(0, 31))
place = st.integers(0, LENGTH)
step = st.one_of(
    st.tuples(st.just("arrival"), st.lists(token, min_size=1, max_size=4)),
    st.tuples(st.just("late event"), place, token),
    st.tuples(st.just("erasure of one event"), place),
    st.tuples(st.just("erasure of the newest"), place),
    st.tuples(st.just("window move"), place),
    st.tuples(st.just("actions merged"), place),
    st.tuples(st.just("upsert"), st.integers(1, NUM_ITEMS), st.integers(21, 999)),
    st.tuples(st.just("nothing")),
)


def changed(tokens: list[Token], what: str, *how) -> list[Token]:
    """The history after one step, cut to the window."""
    tokens = list(tokens)
    if what == "arrival":
        tokens += how[0]
    elif what == "late event":
        tokens.insert(min(how[0], len(tokens)), how[1])
    elif what == "erasure of the newest":
        tokens = tokens[: how[0]]
    elif what == "window move":
        tokens = tokens[how[0] :]
        tokens = [(tokens[0][0], tokens[0][1], 0), *tokens[1:]] if tokens else []
    elif what == "erasure of one event" and how[0] < len(tokens):
        del tokens[how[0]]
    elif what == "actions merged" and how[0] < len(tokens):
        row, _, gap = tokens[how[0]]
        tokens[how[0]] = (row, 3, gap)
    return tokens[-LENGTH:]


def ranked(states: UserStates, items: Items, tokens: list[Token], depth: int, keep: bool = True) -> UserSide:
    """One request's use of the cache: find, deepen as its levels ask, keep."""
    ticket, history = states.ticket(), history_of(tokens)
    user = encode_user(MODEL, states, KEY, history, items.store.snapshot())
    with torch.no_grad():
        MODEL.encoder.deepen_(user.state, depth)
    if keep and user.worth_keeping:
        states.put(KEY, user.encoded, ticket)
    return user


def assert_as_if_fresh(user: UserSide, items: Items, tokens: list[Token]) -> None:
    fresh = ranked(UserStates(0), items, tokens, user.state.depth).state
    assert max(differences(user.state, fresh)) <= TOLERANCE


@settings(max_examples=60)
@given(st.lists(st.tuples(step, st.sampled_from([2, 3, 4]), st.booleans()), min_size=1, max_size=10))
def test_a_cached_state_is_what_encoding_anew_gives_whatever_happens_to_the_history(steps):
    """Depths 2 to 4: levels deepen a state lazily, and what is extended is extended in all its layers."""
    states, items = UserStates(), Items(MODEL)
    tokens: list[Token] = []
    for (what, *how), depth, keep in steps:
        if what == "upsert":
            items.upsert(*how)
        tokens = changed(tokens, what, *how)
        assert_as_if_fresh(ranked(states, items, tokens, depth, keep), items, tokens)


def tokens_of(length: int, seed: int = 0) -> list[Token]:
    random = np.random.default_rng(seed)
    return [(int(random.integers(1, NUM_ITEMS)), 1, int(random.integers(0, 9))) for _ in range(length)]


@pytest.mark.parametrize(
    ("what", "after", "warmth", "new_tokens"),
    [
        ("nothing", lambda t: t, "warm", 0),
        ("two arrivals", lambda t: [*t, (1, 1, 1), (2, 2, 2)], "extended", 2),
        ("a late event", lambda t: [*t[:3], (9, 1, 1), *t[3:]], "extended", 6),
        ("the newest erased", lambda t: t[:-2], "extended", 0),
        ("all erased", lambda t: [], "extended", 0),
        ("window moved", lambda t: t[4:], "cold", 4),
    ],
)
def test_only_the_tokens_behind_the_first_difference_are_encoded(what, after, warmth, new_tokens):
    states, items, tokens = UserStates(), Items(MODEL), [(i, 1, i) for i in range(1, 9)]
    assert ranked(states, items, tokens, 4).warmth == "cold"
    user = ranked(states, items, after(tokens), 4)
    assert (user.warmth, user.new_tokens) == (warmth, new_tokens)
    assert_as_if_fresh(user, items, after(tokens))


def test_an_upsert_makes_a_state_stale_from_its_first_token_of_that_item_on_and_no_other():
    states, items, tokens = UserStates(), Items(MODEL), [(i, 1, i) for i in range(1, 9)]
    before = ranked(states, items, tokens, 4).state
    items.upsert(15, 400)  # not in the history
    assert ranked(states, items, tokens, 4).new_tokens == 0
    items.upsert(5, 500)
    user = ranked(states, items, tokens, 4)
    assert (user.warmth, user.new_tokens) == ("extended", 4)
    assert_as_if_fresh(user, items, tokens)
    assert max(differences(user.state, before)) > 1e-3, "positive control: the item matters"
    assert ranked(states, items, tokens, 4).warmth == "warm"


def test_a_request_older_than_an_upsert_reads_a_state_kept_after_it_as_its_own_snapshot_says():
    states, items, tokens = UserStates(), Items(MODEL), [(i, 1, i) for i in range(1, 9)]
    old = items.store.snapshot()
    expected = encode_user(MODEL, UserStates(0), KEY, history_of(tokens), old).state
    items.upsert(3, 300)
    ranked(states, items, tokens, 2)
    user = encode_user(MODEL, states, KEY, history_of(tokens), old)
    assert (user.warmth, user.new_tokens) == ("extended", 6)
    assert max(differences(user.state, expected)) <= TOLERANCE


def test_a_cached_state_does_not_change_while_a_request_deepens_its_own():
    states, items, tokens = UserStates(), Items(MODEL), tokens_of(6)
    ranked(states, items, tokens, 2)
    held = states.find(KEY)
    ranked(states, items, tokens, 4, keep=False)
    assert held.state.depth == 2 and states.find(KEY).state.depth == 2
    ranked(states, items, tokens, 4)
    assert states.find(KEY).state.depth == 4, "a deeper state of the same history replaces the shallower one"


def test_an_erasure_drops_the_state_and_what_was_read_before_it_is_not_kept():
    states, items, tokens = UserStates(), Items(MODEL), tokens_of(6)
    ticket = states.ticket()
    user = ranked(states, items, tokens, 2)
    assert states.find(KEY) is not None
    states.forget("u1")
    assert states.find(KEY) is None and states.counts()["bytes"] == 0
    states.put(KEY, user.encoded, ticket)
    assert states.find(KEY) is None, "the request began before the erasure"
    states.put(KEY, user.encoded, states.ticket())
    assert states.find(KEY) is not None, "positive control: a later one is kept"


def test_a_shrunken_history_leaves_nothing_of_the_erased_events_in_the_cache():
    states, items, tokens = UserStates(), Items(MODEL), tokens_of(10)
    ranked(states, items, tokens, 4)
    whole = states.find(KEY).state.nbytes
    ranked(states, items, tokens[:2], 4)
    held = states.find(KEY)
    assert len(held.tokens) == 2 and held.state.nbytes == whole * 9 // 13


def test_the_longest_unused_go_first_and_the_bytes_stay_within_the_limit():
    items, tokens = Items(MODEL), tokens_of(6)
    encoded = encode_user(MODEL, UserStates(0), KEY, history_of(tokens), items.store.snapshot()).encoded
    states = UserStates()
    states.put(KEY, encoded, states.ticket())
    size = states.counts()["bytes"]
    states = UserStates(3 * size + 10)
    for user in ("a", "b", "c"):
        states.put(("model", user), encoded, states.ticket())
    states.find(("model", "a"))
    states.put(("model", "d"), encoded, states.ticket())
    kept = {user: states.find(("model", user)) is not None for user in "abcd"}
    assert kept == {"a": True, "b": False, "c": True, "d": True}
    counts = states.counts()
    assert (counts["bytes"], counts["users"], counts["evicted"]) == (3 * size, 3, 1)


def test_a_limit_of_zero_keeps_nothing_and_a_state_beyond_the_limit_is_not_kept():
    items, tokens = Items(MODEL), tokens_of(6)
    for limit in (0, 100):
        states = UserStates(limit)
        assert [ranked(states, items, tokens, 2).warmth for _ in range(2)] == ["cold", "cold"]
        assert states.counts()["bytes"] == 0


def test_the_bytes_counted_are_those_that_are_kept_alive():
    """Values are a third of the product they come from; the cache holds them in memory of their own."""
    states, items = UserStates(), Items(MODEL)
    user = ranked(states, items, tokens_of(9), 4)
    held = states.find(KEY).state
    floats = 13 * 16  # the start token and nine events, filled up to twelve
    assert user.state.nbytes > held.nbytes
    assert held.nbytes == 4 * floats * (2 + 2 * 4), "two streams, keys and values of four layers"


def test_hits_extends_and_misses_are_counted():
    states, items, tokens = UserStates(), Items(MODEL), tokens_of(5)
    for history in (tokens, tokens, tokens[:3], [*tokens[:3], (1, 1, 1)]):
        ranked(states, items, history, 2)
    counts = states.counts()
    assert (counts["misses"], counts["hits"], counts["extends"], counts["users"]) == (1, 1, 2, 1)


def test_two_threads_on_one_user_each_get_the_state_of_their_own_history():
    states, items = UserStates(), Items(MODEL)
    histories = [tokens_of(9)[:n] for n in (3, 6, 9)]
    expected = {(len(h), d): ranked(UserStates(0), items, h, d).state for h in histories for d in (2, 3, 4)}
    wrong: list[object] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(60):
            history, depth = histories[random.integers(3)], int(random.integers(2, 5))
            user = ranked(states, items, history, depth)
            if max(differences(user.state, expected[len(history), user.state.depth])) > TOLERANCE:
                wrong.append((len(history), depth))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_wrong_token_would_be_noticed():
    """Positive control of the property above: trusting a state by its length alone gives another one."""
    states, items, tokens = UserStates(), Items(MODEL), tokens_of(6)
    ranked(states, items, tokens, 2)
    held = states.find(KEY)
    others = [*tokens[:2], (19, 2, 5), *tokens[3:]]
    trusted = replace(
        held, tokens=encode_user(MODEL, UserStates(0), KEY, history_of(others), items.store.snapshot()).encoded.tokens
    )
    states.put(KEY, trusted, states.ticket())
    user = ranked(states, items, others, 2)
    fresh = ranked(UserStates(0), items, others, 2).state
    assert user.warmth == "warm" and max(differences(user.state, fresh)) > 1e-3


def test_histories_of_any_length_are_encoded_in_few_sizes():
    sizes = {history_size(length, 200) for length in range(201)}
    assert len(sizes) == 18 and all(length <= history_size(length, 200) for length in range(201))
    states, items = UserStates(), Items(MODEL)
    positions = [ranked(states, items, tokens_of(length), 4).state.num_positions - 1 for length in range(LENGTH + 1)]
    assert positions == [history_size(length, LENGTH) for length in range(LENGTH + 1)]
    assert set(positions) == {0, 8, LENGTH}


def test_what_stands_behind_a_history_changes_no_state_of_it(monkeypatch):
    items, tokens = Items(MODEL), tokens_of(5)
    filled = ranked(UserStates(0), items, tokens, 4).state
    monkeypatch.setattr(user_side, "history_size", lambda tokens, longest: tokens)
    plain = ranked(UserStates(0), items, tokens, 4).state
    assert (filled.num_positions, plain.num_positions) == (9, 6)
    assert max(differences(filled.prefix(6), plain)) <= TOLERANCE
