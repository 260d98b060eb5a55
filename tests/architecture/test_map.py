"""Every room stands on the map with a sentence, and the map names no room that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def rooms() -> set[str]:
    return {p.parent.name for p in (ROOT / "src" / "depthrank").glob("*/__init__.py")}


def sentences(text: str) -> dict[str, str]:
    """Room -> its sentence, from lines such as ``- `events` is the event log.``"""
    return dict(re.findall(r"^- `(\w+)` (.+(?:\n  .+)*)", text, flags=re.M))


def unmapped(present: set[str], mapped: dict[str, str]) -> set[str]:
    return {room for room in present if len(mapped.get(room, "").split()) < 6}


def test_every_room_has_a_sentence_on_the_map() -> None:
    mapped = sentences((ROOT / "docs" / "map.md").read_text())
    assert unmapped(rooms(), mapped) == set()
    assert set(mapped) - rooms() == set()


def test_a_room_without_a_sentence_is_seen() -> None:
    mapped = sentences("- `events` is the event log that training and serving read.\n- `model` is.\n")
    assert unmapped({"events", "model", "tables"}, mapped) == {"model", "tables"}
