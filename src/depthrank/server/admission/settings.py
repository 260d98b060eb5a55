"""What admission does, gate by gate, and the few numbers behind it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Gate = Literal["enforce", "dry-run", "off"]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]


class Gates(msgspec.Struct, frozen=True, kw_only=True):
    """``enforce`` acts; ``dry-run`` says what it would have done, in answers and metrics; ``off`` does not look.

    deadline: what cannot make its deadline, even by the router alone, is not queued. concurrency: no more is queued
    than was in time lately. cohorts: in a lasting overload the same users are refused for an hour, low priority
    first. price: the price of compute follows the load. share: a request leaves those behind it the time for the
    router. full: requests of mode full are narrowed where full depth does not fit. input_order: what would be refused
    is answered in input order.
    """

    deadline: Gate = "enforce"
    concurrency: Gate = "enforce"
    cohorts: Gate = "enforce"
    price: Gate = "enforce"
    share: Gate = "enforce"
    full: Gate = "enforce"
    input_order: Gate = "enforce"


class AdmissionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """reserve_ms: kept free before each deadline, for the way back; more where answers were seen to take longer.
    patience_ms: the deadline of requests that name none.

    target_load: share of the measured capacity that the price aims at. price_interval_s: how often it moves.
    shed_load: share of the capacity above which the router's own work makes cohorts be refused. input_order_rps:
    answers in input order a second; beyond it, 503. requests_together: at most so many requests share passes of their
    deeper levels, where that is predicted to pay; 1: none do. spill_ms: how much longer a user's own engine may make a
    request wait before another one takes it, beside what encoding the user there costs.
    """

    gates: Gates = Gates()
    reserve_ms: Annotated[float, Meta(ge=0)] = 3.0
    patience_ms: Positive = 10_000.0
    target_load: Share = 0.75
    price_interval_s: Positive = 0.25
    shed_load: Share = 0.95
    input_order_rps: Positive = 1_000.0
    requests_together: Annotated[int, Meta(ge=1, le=64)] = 4
    spill_ms: Annotated[float, Meta(ge=0)] = 2.0
