"""How engine processes are kept alive."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """engine_threads: torch's threads in each engine process; one gives the most requests a second.

    hang_after_s: an engine that holds requests and has said nothing for this long, beside the time it was predicted to
    need, is killed and replaced. restart_first_s, restart_most_s: the pause before a dead engine is started again
    doubles from the first to the most while it keeps dying. load_timeout_s: how long an engine may take to load an
    artifact. window_ms: predicted work that is handed to an engine ahead, so that it does not wait for the front.
    """

    engine_threads: Annotated[int, Meta(ge=1)] = 1
    hang_after_s: Positive = 10.0
    restart_first_s: Positive = 0.2
    restart_most_s: Positive = 10.0
    load_timeout_s: Positive = 600.0
    window_ms: Positive = 4.0
