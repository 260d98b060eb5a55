"""Columns of the main file that a feature may read: those of the request, and those of each candidate."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from depthrank.data.guess.kinds import kind_of
from depthrank.data.guess.main_file import Main, groups
from depthrank.data.guess.outcomes import outcomes_beside
from depthrank.data.guess.roles import REQUEST, id_words_only, is_after
from depthrank.data.guess.tables import Column
from depthrank.data.lists import as_lists, numbers_where_all_are

CONSTANT = 0.98  # of the requests have one value: it belongs to the request
MOST_VISITS = 100  # an id of more values names the visits themselves
ALIGNED = 0.9  # of the rows have a value a candidate


@dataclass
class Sent:
    """Context and candidate columns (those of lists as their parts), and what is left out, with the reason.

    ``several``: whether requests have several candidates, so that one can be compared with the others.
    """

    context: list[Column] = field(default_factory=list)
    candidate: list[Column] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    outcomes: list[str] = field(default_factory=list)
    several: bool = True


def sent_columns(main: Main) -> Sent:
    """Sort the columns of the main file that have no part yet."""
    labels = [label.column for label in main.labels]
    free = [column for column in main.table if column.name not in (*main.taken, *labels)]
    visits = [c for c in free if id_words_only(c, REQUEST) and c.num_distinct > MOST_VISITS and main.form != "events"]
    free = [column for column in free if column not in visits]
    sent = _of_lists(main, free) if main.form == "requests" else _of_rows(main, free)
    sent.left_out |= {column.name: "an id of the visit" for column in visits}
    for columns, side in ((sent.context, "context"), (sent.candidate, "candidate")):
        for column in [c for c in columns if not kind_of(c).kind]:
            columns.remove(column)
            sent.left_out[f"{side}.{column.name}"] = kind_of(column).why
    return sent


def _of_lists(main: Main, free: list[Column]) -> Sent:
    after = [column for column in free if is_after(column)]
    listed = {column.name: parts_of(main, column) for column in free if column not in after}
    context = [column for column in free if column.name in listed and listed[column.name] is None]
    names = [column.name for column in after]
    left_out = {name: "its name is that of an outcome" for name in names}
    return Sent(context, [part for part in listed.values() if part is not None], left_out, names)


def _of_rows(main: Main, free: list[Column]) -> Sent:
    if main.form == "events":
        return Sent(left_out={column.name: _of_positives(main, column) for column in free})
    outcomes = outcomes_beside(main.table, main.labels, main.taken)
    inputs = [column for column in free if column.name not in outcomes]
    group = groups(main)
    context = [column for column in inputs if _is_constant(column, group)]
    several = main.user is not None if group is None else 10 * len(np.unique(group)) < 9 * len(group)
    return Sent(context, [c for c in inputs if c not in context], outcomes, list(outcomes), several)


def _of_positives(main: Main, column: Column) -> str:
    """Why a column of positives is no input, and where it belongs if it is one of the item or of the user."""
    for owner, side in ((main.item, "items"), (main.user, "users")):
        if owner is not None and _is_constant(column, _codes(main, owner)):
            return f"the same wherever {owner} is: put it in a file of {side}"
    return "known of positives only"


def _codes(main: Main, column: str) -> npt.NDArray[np.int64] | None:
    values = main.table.columns[column].values
    if values is None or isinstance(values.dtype, pl.List):
        return None
    return values.rank("dense").fill_null(0).to_numpy().astype(np.int64)


def _is_constant(column: Column, group: npt.NDArray[np.int64] | None) -> bool:
    """Whether groups of several rows have one value each; False where hardly any has several."""
    if group is None or column.values is None or column.is_listed:
        return False
    several = (
        pl.DataFrame({"group": group, "value": column.values})
        .group_by("group")
        .agg(rows=pl.len(), values=pl.col("value").n_unique())
        .filter(pl.col("rows") > 1)
    )
    if several.height * 20 < len(np.unique(group)):
        return False
    return int((several["values"] == 1).sum()) >= CONSTANT * several.height


def parts_of(main: Main, column: Column) -> Column | None:
    """The values inside a column that has one a candidate; None where it has not."""
    assert main.item is not None, "lists of items"
    candidates, separator = main.table.columns[main.item], main.separator
    if column.values is None or candidates.values is None or not (column.is_listed or (column.is_text and separator)):
        return None
    lists, shown = (as_lists(c.values, separator) for c in (column, candidates) if c.values is not None)
    if int((lists.list.len() == shown.list.len()).sum()) < ALIGNED * len(lists):
        return None
    values = numbers_where_all_are(lists.list.explode())
    return Column(column.name, values.dtype, values)
