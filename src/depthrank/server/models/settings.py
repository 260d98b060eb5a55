"""How model versions are managed."""

from __future__ import annotations

import msgspec

from depthrank.server.models.rollback_rule import CanaryRule


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """folders: where artifacts may be loaded from, beside the folder that holds the one being served. manage: whether
    ``POST /v1/models`` is answered at all where no token with the scope ``admin`` is required. keep_previous: the
    version that stable replaced stays loaded, so that a rollback is one switch. load_nice: how far the thread that
    loads and warms up gives way to those that rank. shadow_queue: requests that wait for the shadow; beyond it they are
    dropped.
    """

    folders: tuple[str, ...] = ()
    manage: bool = False
    keep_previous: bool = True
    load_nice: int = 5
    shadow_queue: int = 16
    canary: CanaryRule = CanaryRule()
