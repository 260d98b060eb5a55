"""One answer on its way out: filter, caps, diversity, then exploration; what each did stands in ``answer.after``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3
from prometheus_client import CollectorRegistry, Counter

from depthrank.catalogue import Catalogue
from depthrank.errors import CatalogueError
from depthrank.schema import Answer, Request
from depthrank.server.after_ranking.choose_items import capped, diversified, passing
from depthrank.server.after_ranking.explore import explore
from depthrank.server.after_ranking.item_values import keys_of, similarity
from depthrank.server.after_ranking.settings import AfterSettings


class AfterRanking:
    """``items`` gives the catalogue as of now. The order of exploration is drawn from the request id and a secret of
    the process, so that a repeated request is shown the same and no client can choose what it is shown."""

    def __init__(self, settings: AfterSettings, items: Callable[[], Catalogue], registry: CollectorRegistry) -> None:
        """Raises CatalogueError for a rule over a column that the catalogue does not have."""
        self.settings = settings
        self._items, self._secret = items, secrets.token_bytes(32)
        for name in [*settings.filter, *settings.max_per, settings.diversity.column]:
            if name:
                _check_column(items(), name, vector=name == settings.diversity.column)
        self._left_out = Counter(
            "depthrank_after_left_out", "Ranked items that a rule kept out", ["rule"], registry=registry
        )
        self._moved = Counter("depthrank_after_moved", "Items shown above where they were ranked", registry=registry)
        self._explored = Counter("depthrank_explored_answers", "Answers whose order was drawn", registry=registry)

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return self.settings.chooses or self.settings.exploration.share > 0

    def widened(self, request: Request, most: int) -> Request:
        """The request with the reserve that rules choose from."""
        if not self.settings.chooses:
            return request
        return msgspec.structs.replace(request, top=min(request.top * self.settings.reserve, max(most, request.top)))

    def apply(self, answer: Answer, top: int) -> Answer:
        """The answer as it is shown; ``top`` is what the client asked for."""
        if not self.active:
            return answer
        told: dict[str, Any] = {}
        chosen = self._chosen(answer, top, told)
        shown = [answer.items[i] for i in chosen]
        exploration = self.settings.exploration
        if exploration.share > 0:
            drawn = explore([item.value for item in shown], exploration, self._chance(answer.request_id))
            chosen = [chosen[i] for i in drawn.order]
            told |= {"explored": drawn.explored, "kind": exploration.kind, "propensities": list(drawn.propensity)}
            self._explored.inc(drawn.explored)
        moved = sum(place < ranked for place, ranked in enumerate(chosen))
        self._moved.inc(moved)
        told |= {"ranked": chosen, "short_by": max(0, min(top, len(answer.items)) - len(chosen))}
        explained = answer.explain
        if explained is not None and isinstance(explained.get("items"), list):
            explained = {**explained, "items": [explained["items"][i] for i in chosen]}
        items = [answer.items[i] for i in chosen]
        return msgspec.structs.replace(answer, items=items, explain=explained, after=told)

    def _chosen(self, answer: Answer, top: int, told: dict[str, Any]) -> list[int]:
        """Indices of the shown items."""
        order = list(range(len(answer.items)))
        if not self.settings.chooses:
            return order[:top]
        ids, items = [item.item for item in answer.items], self._items()
        left_out: dict[str, int] = {}
        for name, value in self.settings.filter.items():
            kept = passing(order, keys_of(items, name, ids), _wanted(value))
            left_out["filter"] = left_out.get("filter", 0) + len(order) - len(kept)
            order = kept
        for name, most in self.settings.max_per.items():
            kept = capped(order, keys_of(items, name, ids), most)
            left_out["max_per"] = left_out.get("max_per", 0) + len(order) - len(kept)
            order = kept
        diversity = self.settings.diversity
        if diversity.column:
            value_N = np.array([item.value for item in answer.items])
            order = diversified(order, value_N, similarity(items, diversity.column, ids), diversity.strength, top)
        for rule, count in left_out.items():
            self._left_out.labels(rule).inc(count)
        told["left_out"] = left_out
        return order[:top]

    def _chance(self, request_id: str) -> np.random.Generator:
        digest = blake3(request_id.encode("utf-8", "surrogatepass"), key=self._secret).digest(16)
        return np.random.default_rng(int.from_bytes(digest, "big"))


def _wanted(value: object) -> frozenset[Hashable]:
    return frozenset(value) if isinstance(value, (list, tuple)) else frozenset([value])


def _check_column(items: Catalogue, name: str, *, vector: bool) -> None:
    if items.column(name).kind == "vector" and not vector:
        raise CatalogueError(f"after.filter and after.max_per need a column of values; {name!r} holds vectors")
