"""What a call needs: one table, read from the top; what nobody listed is for admins."""

from __future__ import annotations

from typing import Literal

from depthrank.server.access.settings import Scope

Need = Literal["open", "token", "metrics"] | Scope
READ = frozenset({"GET", "HEAD"})
WRITE = frozenset({"POST"})

# (methods, path, need): a path that ends with * covers what is below it. "open": anybody. "token": any token.
NEEDS: tuple[tuple[frozenset[str], str, Need], ...] = (
    (READ, "/health/*", "open"),
    (READ, "/openapi.json", "open"),
    (READ, "/", "open"),
    (READ, "/page/*", "open"),
    (READ, "/metrics", "metrics"),
    (WRITE, "/v1/rank", "rank"),
    (WRITE, "/v1/rerank", "rank"),
    (WRITE, "/v1/events", "events"),
    (READ, "/v1/items", "rank"),
    (READ, "/v1/models", "token"),
    (READ, "/v1/status", "token"),
    (READ, "/v1/status", "token"),  # user ids in it only for admins; /v1/status/sample names users: admins only
    (READ, "/v2/health/*", "open"),
    (READ, "/v2/*", "token"),
    (READ, "/v2", "token"),
    (WRITE, "/v2/*", "rank"),
)


def need_of(method: str, path: str) -> Need:
    """What calling ``method path`` needs."""
    for methods, pattern, need in NEEDS:
        if method in methods and (path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern):
            return need
    return "admin"
