"""No source file is longer than 400 lines without a reason."""

from __future__ import annotations

from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src" / "depthrank"
LONGEST = 400
REASONS: dict[str, str] = {  # file under src/depthrank -> why it is better in one piece
    "sharing/algebra.py": "the uncomputed values and their constructors refer to one another; a split would be a cycle",
    "server/models/versions.py": "one lock guards labels, leases and the list of versions; the rest delegates",
    "server/workers/fleet.py": "one event loop owns the engines, their requests in flight and their restarts",
    "sharing/operators.py": "one table of operators and what is known of each",
}


def too_long(lengths: dict[str, int], reasons: dict[str, str]) -> list[str]:
    return [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > LONGEST and name not in reasons]


def lengths() -> dict[str, int]:
    return {str(p.relative_to(SRC)): len(p.read_text().splitlines()) for p in sorted(SRC.rglob("*.py"))}


def test_no_file_is_too_long_without_a_reason() -> None:
    assert too_long(lengths(), REASONS) == []


def test_every_reason_is_still_needed() -> None:
    now = lengths()
    assert [name for name in REASONS if now.get(name, 0) <= LONGEST] == []


def test_a_long_file_is_seen() -> None:
    assert too_long({"a.py": 401, "b.py": 400, "c.py": 900}, {"c.py": "a table"}) == ["a.py: 401 lines"]
