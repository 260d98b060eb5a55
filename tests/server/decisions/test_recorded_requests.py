"""A server that starts ranks what was asked last, as if it came now, and nothing of that keeps it from serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from depthrank.errors import RequestError
from depthrank.schema import Request
from depthrank.server.decisions import rank_recorded
from depthrank.server.decisions.decision_files import DecisionFiles
from depthrank.server.decisions.recorded_requests import recorded_requests


def recorded(folder: Path, users: list[str], file_bytes: int = 1 << 20) -> None:
    files = DecisionFiles(folder, 1 << 20, file_bytes)
    for user in users:
        request = {"user": user, "candidates": ["a", "b"], "time_ms": 5, "deadline_ms": 20.0, "budget": 0.2, "top": 3}
        files.append({"user": user, "request": request})


def test_the_newest_come_first_over_files_and_without_their_time(tmp_path: Path) -> None:
    recorded(tmp_path, [f"u{n}" for n in range(9)], file_bytes=300)
    assert len(list(tmp_path.iterdir())) > 2
    found = recorded_requests(tmp_path, 5)
    assert [request.user for request in found] == ["u8", "u7", "u6", "u5", "u4"]
    one = found[0]
    assert (one.time_ms, one.deadline_ms, one.budget) == (None, None, None)
    assert one.candidates == ["a", "b"] and one.top == 3, "what was asked stays"


def test_lines_that_are_no_request_are_passed_over(tmp_path: Path) -> None:
    recorded(tmp_path, ["first"])
    (path,) = tmp_path.iterdir()
    torn = b'[1]\n{"user":"u"}\n{"request":{"user":"u"}}\n{"request":7}\n\xff\xfe\n{"user":"torn","requ'
    path.write_bytes(path.read_bytes() + torn)
    assert [request.user for request in recorded_requests(tmp_path, 9)] == ["first"]


def test_they_are_ranked_until_the_time_is_over_and_refusals_do_not_matter(tmp_path: Path) -> None:
    recorded(tmp_path, [f"u{n}" for n in range(9)])
    now, ranked = [0.0], []

    def rank(request: Request) -> Any:
        now[0] += 0.25
        ranked.append(request.user)
        if request.user == "u7":
            raise RequestError("an item that is gone")

    assert rank_recorded(tmp_path, 9, rank, seconds=1.0, clock_s=lambda: now[0]) == 3
    assert ranked == ["u8", "u7", "u6", "u5"]
    assert rank_recorded(tmp_path, 2, rank, seconds=9.0, clock_s=lambda: now[0]) == 1


def test_without_records_nothing_is_ranked(tmp_path: Path) -> None:
    def rank(request: Request) -> Any:
        raise AssertionError("nothing was recorded")

    assert rank_recorded(None, 9, rank, seconds=1.0) == 0
    assert rank_recorded(tmp_path / "absent", 9, rank, seconds=1.0) == 0
    recorded(tmp_path, ["u"])
    assert rank_recorded(tmp_path, 0, rank, seconds=1.0) == 0
