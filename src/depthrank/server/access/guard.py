"""ASGI middleware: who is it, may they, and have they any quota left. An endpoint sees only what passed."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from depthrank.server.access.browsers import host_refused, origin_refused
from depthrank.server.access.client import EVERYTHING, Client, client_with
from depthrank.server.access.quotas import QuotaError, Quotas
from depthrank.server.access.scopes import Need, need_of
from depthrank.server.access.settings import AccessSettings
from depthrank.server.access.settings import Scope as TokenScope
from depthrank.server.access.tokens import Tokens
from depthrank.server.error_answers import error_answer, quota_answer

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="depthrank"'}


class Access:
    """Sets ``state["client"]``; answers 401, 403 and 429 itself."""

    def __init__(
        self, app: ASGIApp, settings: AccessSettings, tokens: Tokens, quotas: Quotas, registry: CollectorRegistry
    ) -> None:
        self.app, self.settings, self.tokens, self.quotas = app, settings, tokens, quotas
        self.refused = Counter(
            "depthrank_access_refused", "Requests without the right to be answered", ("reason",), registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            answer = self._refusal(scope)
            if answer is not None:
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to who is not let in; else None, and the client is in the scope's state."""
        headers, request_id = Headers(scope=scope), scope["state"]["request_id"]
        need = need_of(scope["method"], scope["path"].removeprefix(scope.get("root_path", "")))
        reason = host_refused(headers, self.settings.allowed_hosts)
        if reason is None and not self.tokens.required:
            reason = origin_refused(scope["method"], headers)
        if reason is not None:
            return self._forbidden(request_id, "browser", reason)
        client, sent_wrong = self._client(scope, headers)
        if sent_wrong and need != "open":
            return self._unauthorized(request_id, "the token is not known; it may have been withdrawn")
        if not self._may(client, need):
            if client.scopes:
                reason = f"this token may not do that: it needs the scope {need}"
                return self._forbidden(request_id, "scope", reason)
            return self._unauthorized(request_id, "this needs a token: Authorization: Bearer ...")
        scope["state"]["client"] = client
        if need != "open":
            try:
                self.quotas.charge_request(client.name)
            except QuotaError as error:
                return quota_answer(request_id, error)
        return None

    def _client(self, scope: Scope, headers: Headers) -> tuple[Client, bool]:
        """Who it is, and whether it sent a token that is not ours."""
        address = scope["client"][0] if scope.get("client") else "unknown"
        if not self.tokens.required:
            return Client(f"address:{address}", EVERYTHING), False
        kind, _, token = headers.get("authorization", "").partition(" ")
        nobody = Client(f"address:{address}", frozenset[TokenScope]())
        if kind.lower() != "bearer" or not token.strip():
            return nobody, False
        grant = self.tokens.find(token.strip())
        return (nobody, True) if grant is None else (client_with(grant), False)

    def _may(self, client: Client, need: Need) -> bool:
        if need == "metrics":
            need = self.settings.metrics
        if need == "open":
            return True
        return bool(client.scopes) if need == "token" else client.may(need)

    def _unauthorized(self, request_id: str, message: str) -> Response:
        self.refused.labels("token").inc()
        return error_answer(request_id, 401, "unauthorized", message, headers=CHALLENGE)

    def _forbidden(self, request_id: str, label: str, message: str) -> Response:
        self.refused.labels(label).inc()
        return error_answer(request_id, 403, "forbidden", message)
