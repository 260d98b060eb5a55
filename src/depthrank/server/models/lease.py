"""A request's hold on one model version: every level of the request is scored by it, and it is not unloaded before."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from depthrank.server.models.version import Version
from depthrank.server.ranker_port import ServedRanker


class Lease:
    """Release it exactly when the request is done; a second release does nothing."""

    def __init__(self, version: Version, give_back: Callable[[Version], None]) -> None:
        self.version = version
        self._give_back: Callable[[Version], None] | None = give_back

    @property
    def ranker(self) -> ServedRanker:
        """The version's ranker."""
        return self.version.ranker

    def release(self) -> None:
        """The request is done."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self.version)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
