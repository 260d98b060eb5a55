"""A typed client of a depthrank server, sync and async."""

from __future__ import annotations

from depthrank.client.async_client import AsyncClient
from depthrank.client.client import Client
from depthrank.client.errors import CallDeadlineError, CallError
from depthrank.client.retry import RetryPolicy

__all__ = ["AsyncClient", "CallDeadlineError", "CallError", "Client", "RetryPolicy"]
