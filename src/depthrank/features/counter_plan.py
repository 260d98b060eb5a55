"""The counter features of a spec -> what to count, by which keys, over which windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from depthrank.features.counter_windows import Windows
from depthrank.schema import Counter, Feature


@dataclass(frozen=True)
class KeyPart:
    """``user``, ``item``, or the value of one of their columns."""

    entity: Literal["user", "item"]
    column: str | None

    def __str__(self) -> str:
        return self.entity if self.column is None else f"{self.entity}.{self.column}"


@dataclass(frozen=True)
class TableKey:
    """Events by ``actions``, counted by one or two key parts (user parts first) in buckets of ``bucket_ms``."""

    parts: tuple[KeyPart, ...]
    actions: tuple[str, ...]
    bucket_ms: int


@dataclass(frozen=True)
class CounterFeature:
    """One counter feature; ``per`` is the table of its rate's denominator."""

    name: str
    table: TableKey
    per: TableKey | None
    windows: Windows

    @property
    def parts(self) -> tuple[KeyPart, ...]:
        return self.table.parts

    @property
    def is_request_side(self) -> bool:
        return all(part.entity == "user" for part in self.parts)


def counter_features(features: Mapping[str, Feature]) -> dict[str, CounterFeature]:
    """The counters among ``features``."""
    return {name: _planned(name, f) for name, f in features.items() if isinstance(f, Counter)}


def _planned(name: str, feature: Counter) -> CounterFeature:
    parts = tuple(sorted(map(_part, feature.of.split("*")), key=lambda part: part.entity != "user"))
    assert len(parts) <= 2, "checked by Spec"

    def table(actions: tuple[str, ...]) -> TableKey:
        return TableKey(parts, tuple(sorted(set(actions))), int(feature.bucket))

    lengths = tuple(int(window) // int(feature.bucket) for window in feature.windows)
    windows = Windows(lengths, float(feature.prior) if feature.per else None)
    return CounterFeature(name, table(feature.actions), table(feature.per) if feature.per else None, windows)


def _part(text: str) -> KeyPart:
    entity, _, column = text.strip().partition(".")
    assert entity in ("user", "item"), "checked by Spec"
    return KeyPart("user" if entity == "user" else "item", column if column not in ("", "id") else None)
