"""A port that the network reaches is not opened without access control, or without being told that it shall be."""

from __future__ import annotations

import ipaddress
import logging
import socket

import msgspec

from depthrank.errors import DepthrankError
from depthrank.server.access.settings import AccessSettings

logger = logging.getLogger("depthrank.server")
OWN_NAMES = ("localhost", "127.0.0.1", "::1")


class ExposureError(DepthrankError):
    """The server would be open to the network."""


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address (of a bound socket, so a number)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def for_listener(access: AccessSettings, listener: socket.socket) -> AccessSettings:
    """The settings as they hold on a bound socket: on loopback without tokens, only its own names are answered to.

    Raises ExposureError where the network reaches it and nothing guards it.
    """
    address = listener.getsockname()[0]
    guarded = bool(access.tokens) or access.tokens_file is not None
    if is_loopback(address):
        own_names_only = not guarded and not access.allowed_hosts
        return msgspec.structs.replace(access, allowed_hosts=OWN_NAMES) if own_names_only else access
    if not guarded and not access.insecure:
        raise ExposureError(
            f"not listening on {address}: the network would reach a server without access control; configure tokens "
            "(depthrank token; access.tokens_file), or say --insecure where something else guards the port"
        )
    if guarded and access.tls_cert is None:
        logger.warning(
            "tokens travel in the clear to %s; set access.tls_cert and access.tls_key, or proxy TLS", address
        )
    return access
