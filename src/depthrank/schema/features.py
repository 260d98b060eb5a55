"""The ``features`` section: one struct a feature kind. A ``source`` is ``<side>.<column>``.

Sides: ``user`` and ``item`` (columns of their files, or ``id``), ``context`` (of the request), ``candidate`` (columns
sent with the candidates, such as a price or a bid), ``request`` (``request.time``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from depthrank.schema.dataset import Count, Name, Section, TimeUnit
from depthrank.schema.durations import Duration

SIDES = ("user", "item", "context", "candidate", "request")


class Categorical(Section, frozen=True, kw_only=True, tag_field="kind", tag="categorical"):
    """One id; values seen fewer than ``min_count`` times share the unknown row."""

    source: Name
    min_count: Count = 1


class MultiHot(Section, frozen=True, kw_only=True, tag_field="kind", tag="multi_hot"):
    """Several ids (a list column, or a string split by ``separator``), mean-pooled; at most ``max_values`` are kept."""

    source: Name
    separator: Name | None = None
    max_values: Count = 8
    min_count: Count = 1


class Text(Section, frozen=True, kw_only=True, tag_field="kind", tag="text"):
    """Lower-cased words hashed into ``buckets`` rows, mean-pooled."""

    source: Name
    buckets: Count = 8_192
    max_values: Count = 12


class Numeric(Section, frozen=True, kw_only=True, tag_field="kind", tag="numeric"):
    """One number: ``rank`` maps it to its quantile in the training data, ``log`` to log1p, ``standard`` to z-scores.

    ``within: request`` adds the candidate's rank and difference to the request's median (prices in a displayed list).
    """

    source: Name
    transform: Literal["rank", "log", "standard", "none"] = "rank"
    within: Literal["request"] | None = None


class Vector(Section, frozen=True, kw_only=True, tag_field="kind", tag="vector"):
    """A fixed-length list of numbers, such as an image or text embedding."""

    source: Name
    size: Count


class TimeParts(Section, frozen=True, kw_only=True, tag_field="kind", tag="time"):
    """Hour of day and weekday of a time, in local time of ``utc_offset_h``; ``age``: log of request time minus it."""

    source: Name = "request.time"
    parts: tuple[Literal["hour", "weekday", "age"], ...] = ("hour", "weekday")
    unit: TimeUnit = "ms"
    utc_offset_h: Annotated[float, Meta(ge=-24, le=24)] = 0.0


class Position(Section, frozen=True, kw_only=True, tag_field="kind", tag="position"):
    """The position at which a candidate was shown: a training-only input against position bias, 0 when serving."""

    max_position: Count = 64


class Counter(Section, frozen=True, kw_only=True, tag_field="kind", tag="counter"):
    """Events by ``actions`` of a key over windows, as log-count and, with ``per``, as a smoothed rate.

    ``of`` is ``user``, ``item``, ``user.<column>``, ``item.<column>`` or a pair such as ``user*item.<column>``. Windows
    are multiples of ``bucket``.
    """

    of: Name
    actions: tuple[Name, ...]
    windows: tuple[Duration, ...] = (Duration(86_400_000), Duration(604_800_000))
    bucket: Duration = Duration(3_600_000)
    per: tuple[Name, ...] = ()
    prior: Annotated[float, Meta(ge=0)] = 10.0


class HistoryMatch(Section, frozen=True, kw_only=True, tag_field="kind", tag="history_match"):
    """Whether the candidate occurs in the request's history: how often, how many tokens ago, how long ago.

    ``of`` is ``item`` or ``item.<column>`` (a repeated author or brand). ``actions``: of these history actions only.
    ``compare``: candidate columns of numbers (a price, a place on the page), each as the difference to that of the
    candidate touched last among the request's candidates.
    """

    of: Name = "item"
    actions: tuple[Name, ...] = ()
    compare: tuple[Name, ...] = ()


class HistoryAlong(Section, frozen=True, kw_only=True, tag_field="kind", tag="history_along"):
    """How the candidate lies among those of its list that the history touched, in the order of a candidate column:
    ``along`` a place on the page, a price.

    ``of`` is ``item`` or ``item.<column>``. ``actions``: of these history actions only.
    """

    of: Name = "item"
    along: Name
    actions: tuple[Name, ...] = ()


class HistoryCount(Section, frozen=True, kw_only=True, tag_field="kind", tag="history_count"):
    """How much of each action the request's history holds, which share of it, and how lately; and its length.

    ``actions``: of these history actions only.
    """

    actions: tuple[Name, ...] = ()


Feature = (
    Categorical
    | MultiHot
    | Text
    | Numeric
    | Vector
    | TimeParts
    | Position
    | Counter
    | HistoryMatch
    | HistoryAlong
    | HistoryCount
)
