"""Which server a load goes to, and a request to it as bytes, made once and sent many times."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from depthrank.errors import DepthrankError


class TargetError(DepthrankError):
    """The address is not one that can be loaded."""


@dataclass(frozen=True)
class Target:
    """An address; ``path`` is what is posted to, ``token`` goes into Authorization."""

    host: str
    port: int
    tls: bool = False
    path: str = "/v1/rank"
    token: str | None = None
    certificates: str | None = None

    @classmethod
    def of(cls, url: str, path: str | None = None, token: str | None = None, certificates: str | None = None) -> Target:
        """The target of ``http[s]://host[:port][/path]``; raises TargetError."""
        parts = urlsplit(url)
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or not port:
            raise TargetError(f"{url}: expected an address such as http://127.0.0.1:8080")
        inside = parts.path if parts.path not in ("", "/") else "/v1/rank"
        return cls(parts.hostname, port, parts.scheme == "https", path or inside, token, certificates)

    @property
    def context(self) -> ssl.SSLContext | None:
        """How to trust the server; None without TLS."""
        return ssl.create_default_context(cafile=self.certificates) if self.tls else None

    @property
    def address(self) -> str:
        """As people write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def post(self, body: Mapping[str, Any]) -> bytes:
        """A POST of a JSON body."""
        content = msgspec.json.encode(body)
        return self._head("POST", self.path, len(content)) + content

    def get(self, path: str) -> bytes:
        """A GET."""
        return self._head("GET", path, None)

    def _head(self, method: str, path: str, length: int | None) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{self.port}", "User-Agent: depthrank-bench"]
        if self.token is not None:
            lines.append(f"Authorization: Bearer {self.token}")
        if length is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
