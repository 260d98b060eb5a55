"""``load_dataset``: every file of a spec, with every mistake in one error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from depthrank.catalogue import Catalogue
from depthrank.data.entity_file import Entities, check_entity_file, load_entities, sources
from depthrank.data.event_rows import (
    EventRows,
    check_events,
    check_histories,
    load_events,
    load_histories,
)
from depthrank.data.files import DataFile, Problems, open_file
from depthrank.data.impressions_file import check_impressions, load_impressions
from depthrank.data.requests_file import check_requests, load_requests
from depthrank.data.shown import Shown, check_classes
from depthrank.errors import DataError, FieldProblem
from depthrank.schema import Numeric, Spec, TimeParts, Vector
from depthrank.schema.dataset import ActionColumn, EventsFile, HistoriesFile, ImpressionsFile, ItemsFile, UsersFile

_SENT_SIDES = ("context", "candidate")


@dataclass(frozen=True, eq=False)
class RawDataset:
    """A dataset in memory. ``main`` is what examples come from; ``past`` all other events; ``notes`` what a person
    should know about the data (such as items that only the logs name)."""

    items: Catalogue
    users: Catalogue | None
    main: Shown | EventRows
    past: tuple[EventRows, ...]
    notes: tuple[str, ...]


def load_dataset(spec: Spec) -> RawDataset:
    """Read all files of ``spec.dataset``; raises one DataError that lists every mistake in them.

    Items (and users, where there is a users file) that only the logs name join the catalogue with missing columns.
    """
    problems: Problems = []
    files = _open_all(spec, problems)
    _check_all(files, spec, problems)
    if problems:  # values are read only where every column is there: their mistakes would be noise beside these
        raise _data_error(spec, problems)
    main = _load_main(files, spec, problems)
    past = _load_past(files, spec, main, problems)
    items, users = (_load_entities(files, side, spec, problems) for side in ("items", "users"))
    if main is not None:
        _check_main(main, spec, problems)
    if problems:
        raise _data_error(spec, problems)
    assert main is not None
    logged_items, logged_users = _logged(main, past)
    items, notes = items or Entities([], {}), []
    unlisted = items.add_unlisted(logged_items)
    if unlisted and spec.dataset.items is not None:
        notes.append(
            f"{unlisted} items are in the logs but not in {spec.dataset.items.path}: their columns are missing"
        )
    if users is not None:
        unlisted = users.add_unlisted(logged_users)
        if unlisted and spec.dataset.users is not None:
            notes.append(f"{unlisted} users are in the logs but not in {spec.dataset.users.path}")
    user_catalogue = None if users is None else users.catalogue("user")
    return RawDataset(items.catalogue("item"), user_catalogue, main, tuple(past), tuple(notes))


def _data_error(spec: Spec, problems: Problems) -> DataError:
    noun = "mistake" if len(problems) == 1 else "mistakes"
    return DataError(f"the data of {spec.name!r} has {len(problems)} {noun}:", list(dict.fromkeys(problems)))


def _forms(spec: Spec) -> dict[str, object]:
    """Where in the spec -> the section there, for every file of the dataset."""
    dataset = spec.dataset
    forms: dict[str, object] = {n: getattr(dataset, n) for n in ("items", "users", "requests", "impressions", "events")}
    forms |= {f"more_events[{i}]": form for i, form in enumerate(dataset.more_events)}
    forms |= {f"histories[{i}]": form for i, form in enumerate(dataset.histories)}
    return {f"$.dataset.{n}": form for n, form in forms.items() if form is not None}


def _text_columns(form: object) -> list[str]:
    """Columns of ids, which a CSV must not turn into numbers."""
    names = [getattr(form, n, None) for n in ("id", "user", "item", "items", "candidates")]
    request = getattr(form, "request", None)
    names.append(getattr(request, "column", request))
    action = getattr(form, "action", None)
    names.append(action.column if isinstance(action, ActionColumn) else None)
    return [n for n in names if isinstance(n, str)]


def _categories(form: object, spec: Spec) -> list[str]:
    """Columns that features read as categories and none as a number."""
    sides = ("item",) if isinstance(form, ItemsFile) else ("user",) if isinstance(form, UsersFile) else _SENT_SIDES
    read = [reading for side in sides for reading in sources(spec, side).values()]
    numbers = {column for column, feature in read if isinstance(feature, (Numeric, TimeParts, Vector))}
    return [column for column, _ in read if column not in numbers]


def _open_all(spec: Spec, problems: Problems) -> dict[str, DataFile]:
    opened = {
        where: open_file(spec.folder, form.path, where, _text_columns(form), problems, _categories(form, spec))  # type: ignore[attr-defined]
        for where, form in _forms(spec).items()
    }
    return {where: file for where, file in opened.items() if file is not None}


def _check_all(files: dict[str, DataFile], spec: Spec, problems: Problems) -> None:
    forms = _forms(spec)
    for where, file in files.items():
        form = forms[where]
        if isinstance(form, (ItemsFile, UsersFile)):
            check_entity_file(file, form, "item" if isinstance(form, ItemsFile) else "user", spec, problems)
        elif isinstance(form, ImpressionsFile):
            check_impressions(file, form, spec, problems)
        elif isinstance(form, EventsFile):
            check_events(file, form, spec, problems, main=where == "$.dataset.events")
        elif isinstance(form, HistoriesFile):
            check_histories(file, form, problems)
        else:
            check_requests(file, form, spec, problems)  # type: ignore[arg-type]


def _load_main(files: dict[str, DataFile], spec: Spec, problems: Problems) -> Shown | EventRows | None:
    dataset = spec.dataset
    if dataset.impressions is not None:
        return load_impressions(files["$.dataset.impressions"], dataset.impressions, spec, problems)
    if dataset.requests is not None:
        return load_requests(files["$.dataset.requests"], dataset.requests, spec, problems)
    assert dataset.events is not None
    return load_events(files["$.dataset.events"], dataset.events, spec, problems, main=True)


def _load_past(
    files: dict[str, DataFile], spec: Spec, main: Shown | EventRows | None, problems: Problems
) -> list[EventRows]:
    before_ms = 0 if main is None else _first_ms(main)
    loads: list[Callable[[], EventRows | None]] = []
    for i, events in enumerate(spec.dataset.more_events):
        file = files[f"$.dataset.more_events[{i}]"]
        loads.append(lambda f=file, e=events: load_events(f, e, spec, problems, main=False))  # type: ignore[misc]
    for i, form in enumerate(spec.dataset.histories):
        file = files[f"$.dataset.histories[{i}]"]
        loads.append(lambda f=file, h=form: load_histories(f, h, before_ms, problems))  # type: ignore[misc]
    return [rows for rows in (load() for load in loads) if rows is not None]


def _first_ms(main: Shown | EventRows) -> int:
    times = main.shown_ms if isinstance(main, Shown) else main.frame["time_ms"].to_numpy()
    return int(times.min()) if len(times) else 0


def _load_entities(files: dict[str, DataFile], name: str, spec: Spec, problems: Problems) -> Entities | None:
    form = getattr(spec.dataset, name)
    return None if form is None else load_entities(files[f"$.dataset.{name}"], form, name[:-1], spec, problems)


def _check_main(main: Shown | EventRows, spec: Spec, problems: Problems) -> None:
    """One class only, no requests, no positives."""
    if isinstance(main, Shown):
        check_classes(main.label, spec, problems)
        return
    positive = positives_of_events(main, spec)
    known = ", ".join(map(repr, main.frame["action"].unique().sort().head(10).to_list()))
    for k, (name, task) in enumerate(spec.tasks.items()):
        if not positive[:, k].any():
            field = f"$.tasks.{name}.{'column' if task.column is not None else 'action'}"
            wanted = f"labels of {task.column!r}" if task.column else f"events with action {spec.action_of(name)!r}"
            problems.append(FieldProblem(field, f"no positive among actions {known}", f"some {wanted}"))


def positives_of_events(rows: EventRows, spec: Spec) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Whether each event row is a positive of each task, bool [n, K]: by the task's label column, or by its action."""
    action = rows.frame["action"]
    columns = [
        rows.label[:, k] > 0 if task.column is not None else (action == spec.action_of(name)).to_numpy()
        for k, (name, task) in enumerate(spec.tasks.items())
    ]
    return np.stack(columns, axis=1)


def _logged(main: Shown | EventRows, past: list[EventRows]) -> tuple[list[pl.Series], list[pl.Series]]:
    """The item and user ids of all logs."""
    frames = [rows.frame for rows in past]
    if isinstance(main, EventRows):
        frames.append(main.frame)
    items, users = [f["item"] for f in frames], [f["user"] for f in frames]
    if isinstance(main, Shown):
        items.append(main.item)
        users.append(pl.Series(main.user, dtype=pl.String))
    return items, users
