"""Who is calling: a token's name, or the address of a client without one."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request as HttpRequest

from depthrank.server.access.settings import Grant, Scope

EVERYTHING: frozenset[Scope] = frozenset({"rank", "events", "admin"})


@dataclass(frozen=True, slots=True)
class Client:
    """``name`` is ``token:NAME`` or ``address:IP``; quotas, fair shares and records go by it."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the client may do what ``scope`` covers; an admin may do everything."""
        return scope in self.scopes or "admin" in self.scopes


def client_with(grant: Grant) -> Client:
    """The client that sent this token."""
    return Client(f"token:{grant.name}", frozenset(grant.scopes))


def client_of(http: HttpRequest) -> Client:
    """Who sent a request; where no ``Access`` stands before the endpoint, everybody is the operator's own."""
    found = getattr(http.state, "client", None)
    assert found is None or isinstance(found, Client)
    return found or Client("address:unknown", EVERYTHING)
