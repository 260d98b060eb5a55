"""The public names are frozen: others are written against them."""

from __future__ import annotations

import inspect

import pytest

import depthrank as dr

NAMES = [
    "Answer",
    "AsyncClient",
    "Client",
    "DepthrankError",
    "EventBatch",
    "EventLog",
    "Ranker",
    "Request",
    "Spec",
    "evaluate_artifact",
    "inspect_artifact",
    "share",
    "train",
    "verify_artifact",
]
# Parameters may be added with a default, none renamed or removed.
PARAMETERS = {
    "train": ["spec", "log", "out", "seed", "minutes", "resume", "progress"],
    "share": ["module", "example", "request_inputs"],
    "evaluate_artifact": ["artifact", "spec", "log", "split"],
    "inspect_artifact": ["path"],
    "verify_artifact": ["path"],
    "Ranker.load": ["path", "log"],
    "Ranker.rank": ["request"],
    "EventLog.open": ["url", "durable", "read_only"],
    "Spec.load": ["path"],
    "Client": ["url", "token", "timeout_s"],
    "AsyncClient": ["url", "token", "timeout_s"],
    "Client.rank": ["request", "request_id"],
    "Client.append": ["user", "item", "action", "time_ms", "event_id"],
    "Client.history": ["user", "limit", "actions"],
}
REQUEST = ["user", "candidates", "context", "top", "time_ms", "deadline_ms", "budget", "mode", "explain"]


def parameters(name: str) -> dict[str, inspect.Parameter]:
    target = dr
    for part in name.split("."):
        target = getattr(target, part)
    found = dict(inspect.signature(target).parameters)  # type: ignore[arg-type]
    found.pop("self", None)
    return found


def broken_promises(promised: list[str], found: dict[str, inspect.Parameter]) -> list[str]:
    """Promised parameters that are gone, and new ones that callers would have to give."""
    gone = [name for name in promised if name not in found]
    forced = [
        name
        for name, p in found.items()
        if name not in promised and p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return gone + forced


def test_the_names_are_these() -> None:
    assert dr.__all__ == NAMES
    assert set(dr._HOME) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_loads_and_says_what_it_is(name: str) -> None:
    value = getattr(dr, name)
    assert value.__doc__
    assert name in dir(dr)


def test_a_name_that_is_not_there_says_what_is() -> None:
    with pytest.raises(AttributeError, match="module 'depthrank' has no attribute 'rank'; it offers Answer, Asy"):
        dr.rank  # noqa: B018


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_only_ever_added(name: str) -> None:
    assert broken_promises(PARAMETERS[name], parameters(name)) == []


def test_a_renamed_or_a_newly_required_parameter_is_seen() -> None:
    def renamed(specification: str, log: str | None = None) -> None: ...

    found = dict(inspect.signature(renamed).parameters)
    assert broken_promises(["spec", "log"], found) == ["spec", "specification"]


def test_a_request_keeps_its_fields() -> None:
    assert list(dr.Request.__struct_fields__[: len(REQUEST)]) == REQUEST


def test_importing_the_room_evaluate_takes_no_public_name_away() -> None:
    import depthrank.evaluate

    assert depthrank.evaluate.__name__ == "depthrank.evaluate"
    assert callable(dr.evaluate_artifact)
