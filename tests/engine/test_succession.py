"""What a model version takes over from the one that it follows."""

from __future__ import annotations

from asking import ask, one_event, shown

from depthrank.engine.succession import take_over

LEARNED = 12


def test_the_users_served_last_are_encoded_before_anybody_asks(make_ranker):
    old, new = make_ranker(), make_ranker()
    for user in ("u1", "u2", "u3", "u1"):
        old.rank(ask(user))
    assert take_over(new, old, 2) == 2
    found = {user: new.rank(ask(user, explain=True)).explain["user_state"]["found"] for user in ("u1", "u3", "u2")}
    assert [found[user] for user in ("u1", "u3", "u2")] == ["warm", "warm", "cold"], "u2 was asked for before them"


def test_it_answers_as_it_would_have_without(make_ranker):
    old, new, alone = make_ranker(), make_ranker(), make_ranker()
    old.rank(ask("u1"))
    take_over(new, old, 10)
    new.append(one_event("u1", "i7", "click", new.clock_ms[0] - 1))
    assert [i[:2] for i in shown(new.rank(ask("u1")))] == [i[:2] for i in shown(alone.rank(ask("u1")))]


def test_costs_learned_here_go_on_and_are_learned_apart_from_then_on(make_ranker):
    old, new = make_ranker(), make_ranker()
    for n in range(LEARNED):
        old.rank(ask(f"u{n}"))
    assert new.economy().rates != old.economy().rates
    take_over(new, old, 0)
    taken = old.economy().rates
    assert new.economy().rates == taken
    new.rank(ask("u1"))
    assert new.economy().rates != taken == old.economy().rates
