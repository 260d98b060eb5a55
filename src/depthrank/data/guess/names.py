"""The words that a column's name is made of."""

from __future__ import annotations

import re

TIME_WORDS = {"time", "timestamp", "datetime", "date", "at", "ts", "when", "created", "updated", "published", "stamp"}


def words(name: str) -> list[str]:
    """The words of a column's name in lower case: ``isClick`` and ``is_click`` are [is, click], ``itemid`` [item]."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    parts = [part for part in re.split(r"[^a-z0-9]+", split.lower()) if part]
    return [re.sub(r"(?<=[a-z]{2})(ids?|key|no|nr)$", "", part) or part for part in parts]
