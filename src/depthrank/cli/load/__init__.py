"""An open-loop load on a server: requests leave at times set beforehand, and latency counts from the intended time.

A closed loop waits for an answer before it asks again, so a slow server is asked less and its queue never shows
(coordinated omission). Here whatever delays a request, in this client or in the server, is in its latency; and the
client says how late it was itself, so that a slow client is not taken for a slow server.
"""

from __future__ import annotations

from depthrank.cli.load.arrivals import Arrivals, Zipf, trace_times
from depthrank.cli.load.figures import figures_of
from depthrank.cli.load.outcomes import Outcomes
from depthrank.cli.load.ramp import find_knee
from depthrank.cli.load.run import Load, Requests, run_load
from depthrank.cli.load.target import Target

__all__ = [
    "Arrivals",
    "Load",
    "Outcomes",
    "Requests",
    "Target",
    "Zipf",
    "figures_of",
    "find_knee",
    "run_load",
    "trace_times",
]
