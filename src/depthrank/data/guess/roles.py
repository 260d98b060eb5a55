"""What the name of a column says it is: a user, an item, a request, an outcome."""

from __future__ import annotations

from collections.abc import Iterable

from depthrank.data.guess.names import words
from depthrank.data.guess.tables import Column

USER = "user customer client visitor member account household person viewer reader buyer traveler traveller shopper"
USER += " guest subscriber player listener patient student cust uid device cookie"
ITEM = "item product article news video movie film hotel ad creative song track book sku asin offer listing content doc"
ITEM += " document game recipe show post photo restaurant poi property reference prop campaign course job app brand"
ITEM += " alternative alt option mode"
REQUEST = "request search query qid session visit impression basket slate page auction srch list question order trip"
REQUEST += " case chid occasion choiceid"
ACTION = "event action behavior behaviour type kind activity"
POSITION = "position pos rank slot place"
SHOWN = "candidates shown impressions displayed inview slate list items results"
LABEL = "click clicked clicks like liked likes buy bought purchase purchased order ordered book booked booking convert"
LABEL += (
    " converted conversion follow followed share shared save saved cart install installed label target chosen choice"
)
LABEL += " long view viewed watched finish finished complete completed reply comment forward favorite favourite reserve"
ID_WORDS = ("id", "ids", "hash", "code", "num", "number", "uuid", "key", "inview", "list")
MOST_GRADES = 6
RATING = "rating stars grade"
GRADED = "label relevance rel grade gain"
AFTER = (
    "dwell stay watch watched play played duration spent revenue gross gain paid feedback scroll read next propensity"
)
AFTER += " comment comments profile forward hate"


def named(column: Column, known: str) -> bool:
    """Whether one of the words of the column's name is among the ``known``."""
    return not set(words(column.name)).isdisjoint(known.split())


def id_words_only(column: Column, known: str) -> bool:
    """Whether the column's name is one of the ``known`` words, and beside it at most what an id is called."""
    return named(column, known) and set(words(column.name)) <= {*known.split(), *ID_WORDS}


def id_of(columns: Iterable[Column], known: str) -> str | None:
    """The id column whose name is one of the ``known`` words (the earlier the better) and little else: ``user_id``."""
    found = [c for c in columns if c.is_id_like and id_words_only(c, known) and not c.is_binary]
    order = known.split()
    place = {c.name: min(order.index(word) for word in words(c.name) if word in order) for c in found}
    return min(place, key=lambda name: place[name], default=None)


def is_label(column: Column) -> bool:
    """Whether the column is an outcome to predict: true/false by the name of one."""
    return column.is_binary and named(column, LABEL)


def is_rating(column: Column) -> bool:
    """Whether the column grades: a few ordered numbers."""
    return column.known.dtype.is_numeric() and named(column, RATING) and 3 <= column.num_distinct <= 101


def is_graded(column: Column) -> bool:
    """Whether the column grades how relevant a candidate is: a few whole numbers."""
    return column.is_whole and named(column, GRADED) and 3 <= column.num_distinct <= MOST_GRADES


def is_after(column: Column) -> bool:
    """Whether the name says that the value is known only afterwards."""
    return named(column, AFTER) or (named(column, LABEL) and column.known.dtype.is_numeric())
