"""The ``dataset`` section of ``ranking.yaml``: which files hold what, and which column means what."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from depthrank.schema.durations import Duration

Name = Annotated[str, Meta(min_length=1)]
"""A column, an action or a path."""
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
"""At least one of something, within int32."""
TimeUnit = Literal["s", "ms", "us", "ns", "iso"]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all YAML structs: frozen, by keyword."""


class TimeColumn(Section, frozen=True, kw_only=True):
    """A time column with its unit; ``iso`` reads date-times (naive ones are UTC)."""

    column: Name
    unit: TimeUnit


Time = Literal["order"] | TimeColumn
"""``order``: no clock in the data; the row number within the file stands for the time, one second a row."""


NO_ITEM = "-"
"""The item of candidates that have no id."""


class ItemsFile(Section, frozen=True, kw_only=True):
    """One row an item; every other column may be used by a feature as ``item.<column>``."""

    path: Name
    id: Name


class UsersFile(Section, frozen=True, kw_only=True):
    """One row a user; every other column may be used by a feature as ``user.<column>``."""

    path: Name
    id: Name


class Grouping(Section, frozen=True, kw_only=True):
    """How impressions form requests: by an id column, or by user and a time gap."""

    column: Name | None = None
    gap: Duration | None = None
    max_candidates: Count = 500

    def __post_init__(self) -> None:
        if (self.column is None) == (self.gap is None):
            raise ValueError("exactly one of column (a request id) and gap (such as 30m)")


class ImpressionsFile(Section, frozen=True, kw_only=True):
    """One row a shown candidate, with its labels.

    Without ``request`` every row is a request of its own. Without ``user`` nobody is known: a request's id stands for
    its user. Without ``item`` candidates are nothing but their columns: all are one item, ``NO_ITEM``.
    """

    path: Name
    user: Name | None = None
    item: Name | None = None
    time: Time
    request: Grouping | None = None
    position: Name | None = None
    context: tuple[Name, ...] = ()
    candidate: tuple[Name, ...] = ()
    impression_action: Name = "impression"


class RequestsFile(Section, frozen=True, kw_only=True):
    """One row a request; ``candidates`` and label columns are lists (or strings split by ``separator``)."""

    path: Name
    user: Name
    time: Time
    candidates: Name
    request: Name | None = None
    context: tuple[Name, ...] = ()
    candidate: dict[str, Name] = {}
    separator: Name | None = None
    impression_action: Name = "impression"


class Negatives(Section, frozen=True, kw_only=True):
    """Sampled negatives for positives-only data: ``per_positive`` items drawn by ``sampler`` (power of popularity)."""

    per_positive: Count = 100
    sampler: Literal["uniform", "popularity"] = "popularity"
    power: Annotated[float, Meta(ge=0, le=10)] = 0.75
    exclude_seen: bool = True


class ActionColumn(Section, frozen=True, kw_only=True):
    """The column that names each event's action."""

    column: Name


class EventsFile(Section, frozen=True, kw_only=True):
    """One row an event; ``action`` is one name for all rows or a column."""

    path: Name
    user: Name
    item: Name
    time: Time
    action: Name | ActionColumn
    negatives: Negatives = Negatives()
    context: tuple[Name, ...] = ()
    separator: Name | None = None


class HistoriesFile(Section, frozen=True, kw_only=True):
    """One row a user (or a row each snapshot) with a list of past items, oldest first.

    ``times`` is a list column beside ``items``. Without it, ``last_time`` dates the newest item and the older ones are
    laid ``spacing`` apart before it.
    """

    path: Name
    user: Name
    items: Name
    action: Name
    times: TimeColumn | None = None
    last_time: TimeColumn | None = None
    spacing: Duration = Duration(60_000)
    separator: Name | None = None


class Dataset(Section, frozen=True, kw_only=True):
    """All files of a dataset; paths are relative to the folder of ``ranking.yaml``. Parquet, CSV or TSV by suffix."""

    items: ItemsFile | None = None
    users: UsersFile | None = None
    requests: RequestsFile | None = None
    impressions: ImpressionsFile | None = None
    events: EventsFile | None = None
    more_events: tuple[EventsFile, ...] = ()
    histories: tuple[HistoriesFile, ...] = ()

    @property
    def main(self) -> RequestsFile | ImpressionsFile | EventsFile:
        """The one file that training examples come from."""
        found = self.requests or self.impressions or self.events
        assert found is not None, "checked by Spec"
        return found
