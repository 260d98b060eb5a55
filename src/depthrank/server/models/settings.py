"""How model versions are managed."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from depthrank.schema.byte_size import ByteSize
from depthrank.server.models.rollback_rule import CanaryRule


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """folders: where artifacts may be loaded from, beside the folder that holds the one being served. manage: whether
    ``POST /v1/models`` is answered at all where no token with the scope ``admin`` is required. keep_previous: the
    version that stable replaced stays loaded, so that a rollback is one switch. load_nice: how far the thread that
    loads and warms up gives way to those that rank. shadow_queue: requests that wait for the shadow; beyond it they are
    dropped. warm_users: whose histories a version that loads encodes before it answers, those asked for last.
    deltas: a folder whose deltas serve, in their order, from the start on and as they come; it is looked at
    every ``deltas_every_s``. hot_rows: memory for single rows of tables too large for it, in every process that ranks
    (such as 256MB; docs/tables.md).
    """

    folders: tuple[str, ...] = ()
    manage: bool = False
    keep_previous: bool = True
    load_nice: int = 5
    warm_users: Annotated[int, Meta(ge=0)] = 256
    shadow_queue: int = 16
    deltas: str | None = None
    deltas_every_s: Annotated[float, Meta(gt=0)] = 2.0
    hot_rows: ByteSize | None = None
    canary: CanaryRule = CanaryRule()
