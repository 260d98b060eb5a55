"""``depthrank replay`` on what ``depthrank rank --explain`` printed, and the sizes that options take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from depthrank.cli.options import bytes_of
from depthrank.cli.rank import _rank_one
from depthrank.cli.replay import ReplayError, replay
from depthrank.cli.terminal import UsageProblem
from depthrank.engine import Ranker
from depthrank.errors import ArtifactError
from depthrank.events import open_log

REQUEST = {"user": "u1", "candidates": "all", "context": {"device": "ios"}, "top": 5, "budget": 0.5}


@pytest.fixture
def answer(world: Any, tmp_path: Path) -> Path:
    """An explained answer in a file."""
    with open_log(world.log_url, read_only=True) as log:
        ranker = Ranker.load(world.artifact, log)
        (tmp_path / "answer.json").write_text(_rank_one(ranker, json.dumps(REQUEST).encode(), explain=True))
    return tmp_path / "answer.json"


def test_an_explained_answer_replays_by_itself_and_tells_why(answer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replay(str(answer))
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "the same decision" and any("of the full cost" in line for line in said)


def test_a_bare_record_needs_the_artifact(answer: Path, world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(answer.read_text())["explain"]["decision"]["record"]
    del record["artifact"]
    answer.write_text(json.dumps(record))
    with pytest.raises(UsageProblem, match="--artifact DIR"):
        replay(str(answer))
    replay(str(answer), artifact=world.artifact)
    assert "the same decision" in capsys.readouterr().out


def test_a_decision_that_comes_out_otherwise_is_an_error_that_names_the_difference(answer: Path) -> None:
    told = json.loads(answer.read_text())
    told["explain"]["decision"]["record"]["decision"]["caps"] = [80, 79]
    answer.write_text(json.dumps(told))
    with pytest.raises(ReplayError, match=r"caps: logged \[80, 79\], now \[80, \d+\]"):
        replay(str(answer))


def test_an_answer_of_a_fixed_plan_holds_no_decision(world: Any, tmp_path: Path) -> None:
    with open_log(world.log_url, read_only=True) as log:
        body = json.dumps({**REQUEST, "mode": "router"}).encode()
        (tmp_path / "a.json").write_text(_rank_one(Ranker.load(world.artifact, log), body, explain=True))
    with pytest.raises(ArtifactError, match="its mode fixed its plan"):
        replay(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("size", "expected"), [("256MB", 256 << 20), ("2g", 2 << 30), ("0", 0), ("1.5 KB", 1_536), ("7B", 7), ("12", 12)]
)
def test_a_size_is_read_in_units_of_1024(size: str, expected: int) -> None:
    assert bytes_of(size, "--user-cache") == expected


@pytest.mark.parametrize("size", ["", "-1", "much", "1e9", "5 XB", "MB", "1" * 30])
def test_what_is_no_size_is_one_clear_error(size: str) -> None:
    with pytest.raises(UsageProblem, match=r"--user-cache .* expected a size such as 256MB"):
        bytes_of(size, "--user-cache")
