"""The rule that takes a canary's label: pure, monotone, and silent without evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthrank.server.models.rollback_rule import CanaryRule, Figures, judge, wilson_low

RULE = CanaryRule()
GOOD = Figures(answers=1_000, errors=2, degraded=10, p99_ms=20.0, labelled=5_000, ne=0.80)


def test_two_equal_versions_stay() -> None:
    verdict = judge(GOOD, GOOD, RULE)
    assert not verdict.rollback and verdict.reasons == () and verdict.waiting == ()


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"errors": 40}, "errors: 40 of 1000"),
        ({"p99_ms": 31.0}, "latency: p99 31.0 ms, of stable 20.0 ms"),
        ({"degraded": 120}, "degraded: 12.0%"),
        ({"ne": 0.82}, "quality: NE 0.8200, of stable 0.8000"),
    ],
)
def test_each_rule_takes_the_label_and_says_why(worse: dict[str, float], reason: str) -> None:
    verdict = judge(GOOD, replace(GOOD, **worse), RULE)
    assert verdict.rollback and len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith(reason)


@pytest.mark.parametrize("slightly", [{"errors": 5}, {"p99_ms": 29.0}, {"degraded": 100}, {"ne": 0.815}])
def test_what_is_within_a_threshold_stays(slightly: dict[str, float]) -> None:
    assert not judge(GOOD, replace(GOOD, **slightly), RULE).rollback


def test_a_canary_that_always_fails_goes_after_a_handful_of_answers() -> None:
    needed = next(n for n in range(1, 50) if judge(GOOD, Figures(answers=n, errors=n), RULE).rollback)
    assert needed <= 3
    assert not judge(GOOD, Figures(answers=200, errors=1), RULE).rollback, "one failure decides nothing"


def test_a_small_difference_in_milliseconds_is_no_reason_whatever_the_ratio() -> None:
    fast = replace(GOOD, p99_ms=1.0)
    assert not judge(fast, replace(GOOD, p99_ms=4.0), RULE).rollback
    assert judge(fast, replace(GOOD, p99_ms=6.5), RULE).rollback


def test_too_little_is_said_and_decides_nothing() -> None:
    slow = Figures(answers=199, p99_ms=1e9, degraded=199, labelled=1_999, ne=9.0)
    verdict = judge(GOOD, slow, RULE)
    assert not verdict.rollback
    assert "canary 199" in verdict.waiting[0] and "1999" in verdict.waiting[1]


FIGURES = st.builds(
    lambda n, bad, few, ms, labelled, ne: Figures(n, min(bad, n), min(few, n), ms, labelled, ne),
    st.integers(0, 5_000),
    st.integers(0, 5_000),
    st.integers(0, 5_000),
    st.floats(0, 1e4),
    st.integers(0, 10_000),
    st.none() | st.floats(0.1, 2),
)


@given(stable=FIGURES, canary=FIGURES)
def test_the_same_figures_give_the_same_verdict_and_reasons_exactly_when_it_goes(
    stable: Figures, canary: Figures
) -> None:
    verdict = judge(stable, canary, RULE)
    assert verdict == judge(stable, canary, RULE)
    assert verdict.rollback == bool(verdict.reasons)


@given(stable=FIGURES, canary=FIGURES, more=st.integers(0, 100))
def test_more_failures_never_save_a_canary(stable: Figures, canary: Figures, more: int) -> None:
    worse = replace(canary, errors=min(canary.answers, canary.errors + more))
    assert judge(stable, worse, RULE).rollback >= judge(stable, canary, RULE).rollback


@given(figures=FIGURES)
def test_a_version_never_loses_against_itself(figures: Figures) -> None:
    assert not judge(figures, figures, RULE).rollback


@given(answers=st.integers(1, 2_000), share=st.floats(0, 1))
def test_the_lower_end_lies_below_the_rate_and_grows_with_the_evidence(answers: int, share: float) -> None:
    errors = int(share * answers)
    assert 0 <= wilson_low(errors, answers) <= errors / answers + 1e-12
    assert wilson_low(10 * errors, 10 * answers) >= wilson_low(errors, answers) - 1e-12
