"""TLS from PEM files, checked before the model is loaded."""

from __future__ import annotations

import ssl
from typing import TypedDict

from depthrank.errors import DepthrankError
from depthrank.server.access.settings import AccessSettings


class TlsError(DepthrankError):
    """Certificate or key cannot be used."""


class TlsOptions(TypedDict, total=False):
    """What uvicorn takes."""

    ssl_certfile: str
    ssl_keyfile: str


def tls_options(access: AccessSettings) -> TlsOptions:
    """Options for uvicorn; none without TLS. Raises TlsError with the one reason."""
    cert, key = access.tls_cert, access.tls_key
    if cert is None and key is None:
        return {}
    if cert is None or key is None:
        missing = "access.tls_cert" if cert is None else "access.tls_key"
        raise TlsError(f"TLS needs a certificate and its key: {missing} is missing")
    for name, file in (("certificate", cert), ("key", key)):
        try:
            with open(file, "rb"):
                pass
        except OSError as error:
            raise TlsError(f"cannot read the TLS {name} {file}: {error.strerror}") from None
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError):
        raise TlsError(
            f"{cert} and {key} are not a PEM certificate and its unencrypted key; check that they belong together"
        ) from None
    return {"ssl_certfile": cert, "ssl_keyfile": key}
