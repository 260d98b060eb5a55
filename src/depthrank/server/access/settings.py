"""Settings of access: tokens, TLS, quotas, and how patient the server is with connections."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Scope = Literal["rank", "events", "admin"]
Gate = Literal["enforce", "dry_run", "off"]
Rate = Annotated[float, Meta(gt=0)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
TokenName = Annotated[str, Meta(pattern="^[A-Za-z0-9._-]{1,64}$")]


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """One token: its name (for quotas, metrics and logs), what it may do, and the SHA-256 of its text in hex."""

    name: TokenName
    scopes: tuple[Scope, ...]
    sha256: Sha256

    def __post_init__(self) -> None:
        if not self.scopes:
            raise ValueError("scopes: some of rank, events, admin")


class QuotaRates(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may use, a second; None: no limit. ``candidates_per_s`` counts what is asked to be ranked."""

    requests_per_s: Rate | None = None
    candidates_per_s: Rate | None = None


class QuotaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Quotas per client: a token, or the address of one without.

    default: for every client that ``tokens`` does not name. burst_s: a client that was quiet may use so many seconds of
    its rate at once. max_clients: addresses that are remembered; beyond, the longest unseen are forgotten. gate:
    ``dry_run`` counts what it would refuse.
    """

    gate: Gate = "enforce"
    default: QuotaRates = QuotaRates()
    tokens: dict[str, QuotaRates] = {}
    burst_s: Rate = 2.0
    max_clients: Annotated[int, Meta(ge=1)] = 10_000


class AccessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who may call, and how patient the server is with connections.

    tokens, tokens_file: the accepted tokens; the file (``tokens: [...]``) is read again when it changes. With neither,
    everybody may do everything, so only loopback is served, unless ``insecure`` says that something else guards the
    port. metrics: who reads /metrics where there are tokens: anybody, any token, or an admin. allowed_hosts: names in
    the ``Host`` header (``*``: any); empty: on loopback without tokens only its own names, which keeps websites out,
    else any. tls_cert, tls_key: PEM files. header_timeout_s: a head takes no longer; max_header_bytes: nor is
    it larger. max_connections: beyond, a connection is answered 503 and closed.
    """

    tokens: tuple[Grant, ...] = ()
    tokens_file: str | None = None
    insecure: bool = False
    metrics: Literal["open", "token", "admin"] = "token"
    allowed_hosts: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    header_timeout_s: Rate = 10.0
    max_header_bytes: Annotated[int, Meta(ge=1_024)] = 65_536
    max_connections: Annotated[int, Meta(ge=1)] = 4_096
    quotas: QuotaSettings = QuotaSettings()
