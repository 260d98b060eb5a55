"""What happens to a ranking before it is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class DiversitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Maximal marginal relevance over an item ``column``: a vector (cosine), a list (Jaccard), a text or number (equal
    or not). strength 0: the order of values alone; 1: unlikeness alone."""

    column: str = ""
    strength: Share = 0.3


class ExplorationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """share: of the requests that are shown another order. kind: ``swap`` exchanges neighbours with probability
    ``epsilon``; ``plackett_luce`` draws the order by value, sharper at a lower ``temperature``. depth: positions that
    may change."""

    share: Share = 0.0
    kind: Literal["swap", "plackett_luce"] = "swap"
    epsilon: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 0.2
    depth: Annotated[int, msgspec.Meta(ge=1, le=200)] = 10


class AfterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """filter: item column -> the value, or the list of values, that an item must have to be shown. max_per: item column
    -> how many items with the same value are shown at most. reserve: so many times the results asked for are ranked, to
    choose from."""

    filter: dict[str, Any] = {}
    max_per: dict[str, Annotated[int, msgspec.Meta(ge=1)]] = {}
    diversity: DiversitySettings = DiversitySettings()
    exploration: ExplorationSettings = ExplorationSettings()
    reserve: Annotated[int, msgspec.Meta(ge=1, le=100)] = 4

    @property
    def chooses(self) -> bool:
        """Whether items are left out or moved by rule."""
        return bool(self.filter or self.max_per or self.diversity.column)
