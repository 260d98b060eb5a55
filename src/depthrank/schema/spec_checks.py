"""Mistakes of a spec that only show between its fields.

Each check is a generator of problems over the whole spec. ``sound(path)`` says whether that part was read without a
problem: what depends on a broken part is not reported again as missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from depthrank.errors import FieldProblem, did_you_mean
from depthrank.schema import features as kinds
from depthrank.schema.collect import describe
from depthrank.schema.dataset import EventsFile, ImpressionsFile, RequestsFile
from depthrank.schema.features import SIDES

if TYPE_CHECKING:
    from depthrank.schema.spec import Spec

Sound = Callable[[str], bool]
Sourced = kinds.Categorical | kinds.MultiHot | kinds.Text | kinds.Numeric | kinds.Vector | kinds.TimeParts
MAX_HISTORY_ACTIONS = 31  # a history token holds its actions as bits of an int32
MOST_LEVELS = 16


def check_between_fields(spec: Spec, broken: Collection[str]) -> Iterator[FieldProblem]:
    """All problems between fields; ``broken`` are the paths that already have one."""

    def sound(path: str) -> bool:
        return not any(b == path or b.startswith((path + ".", path + "[")) or path.startswith(b + ".") for b in broken)

    checks = (_check_dataset, _check_tasks, _check_value, _check_features, _check_actions, _check_split)
    for check in (*checks, _check_transitions, _check_levels, _check_foreign):
        yield from check(spec, sound)


def _check_dataset(spec: Spec, sound: Sound) -> Iterator[FieldProblem]:
    forms = [f for f in ("requests", "impressions", "events") if getattr(spec.dataset, f) is not None]
    if len(forms) != 1 and sound("$.dataset"):
        found = " and ".join(forms) if forms else "none of them"
        yield FieldProblem("$.dataset", found, "exactly one of requests, impressions, events")


def _check_tasks(spec: Spec, sound: Sound) -> Iterator[FieldProblem]:
    if not spec.tasks and sound("$.tasks"):
        yield FieldProblem("$.tasks", "no task", "at least one task, such as click: {column: is_click}")
    form = _main_form(spec) if sound("$.dataset") else None
    for name, task in spec.tasks.items():
        path = f"$.tasks.{name}"
        given = [f for f in ("column", "ids") if getattr(task, f) is not None]
        if len(given) > 1:
            yield FieldProblem(path, "both column and ids", "one of column, ids, action")
        elif task.ids is not None and isinstance(form, ImpressionsFile):
            yield FieldProblem(f"{path}.ids", describe(task.ids), "column (ids needs a requests file)")
        elif task.ids is not None and isinstance(form, EventsFile):
            yield FieldProblem(f"{path}.ids", describe(task.ids), "column or action (ids needs a requests file)")
        elif not given and isinstance(form, (ImpressionsFile, RequestsFile)) and sound(path):
            yield FieldProblem(path, "no label", "column: the column that holds the label (or ids)")
        if task.at_least is not None and task.column is None and sound(path):
            yield FieldProblem(f"{path}.at_least", describe(task.at_least), "a column to compare with it")


def _check_value(spec: Spec, sound: Sound) -> Iterator[FieldProblem]:
    if not sound("$.value.weights"):
        return
    for name in spec.value.weights:
        if name not in spec.tasks and sound("$.tasks." + name):
            yield unknown_name(f"$.value.weights.{name}", name, spec.tasks)
    if not any(spec.value.weights.values()):
        yield FieldProblem("$.value.weights", describe(spec.value.weights), "at least one weight above 0")
    known = _columns(spec, "candidate")
    if spec.value.times is not None and spec.value.times not in known and sound("$.dataset"):
        yield unknown_name("$.value.times", spec.value.times, known, "a candidate column")


def _main_form(spec: Spec) -> RequestsFile | ImpressionsFile | EventsFile | None:
    return spec.dataset.requests or spec.dataset.impressions or spec.dataset.events


def _columns(spec: Spec, side: str) -> tuple[str, ...]:
    """The context or candidate columns that the main file lists."""
    return tuple(getattr(_main_form(spec), side, ()))


def _check_features(spec: Spec, sound: Sound) -> Iterator[FieldProblem]:
    if not spec.features and sound("$.features"):
        yield FieldProblem(
            "$.features", "no feature", "at least one, such as item_id: {kind: categorical, source: item.id}"
        )
    for name, feature in spec.features.items():
        path = f"$.features.{name}"
        if isinstance(feature, kinds.Counter):
            yield from _check_counter(spec, path, feature, sound)
        elif isinstance(feature, (kinds.HistoryMatch, kinds.HistoryAlong)):
            yield from _check_match(spec, path, feature, sound)
        elif isinstance(feature, kinds.HistoryCount):
            yield from _check_of_history(spec, path, feature, sound)
        elif not isinstance(feature, kinds.Position):
            yield from _check_source(spec, path, feature, sound)


def _check_source(spec: Spec, path: str, feature: Sourced, sound: Sound) -> Iterator[FieldProblem]:
    side, _, column = feature.source.partition(".")
    if side not in SIDES or not column:
        near = did_you_mean(side, SIDES)
        hint = f"did you mean {near}.{column or 'column'}?" if near else None
        expected = "<side>.<column>, side one of " + ", ".join(SIDES)
        yield FieldProblem(f"{path}.source", describe(feature.source), expected, hint)
        return
    yield from _check_column(spec, f"{path}.source", side, column, sound)
    if side == "request" and not isinstance(feature, kinds.TimeParts):
        yield FieldProblem(
            f"{path}.kind", "request.time as another kind", "time (the one kind that reads request.time)"
        )
    if isinstance(feature, kinds.TimeParts) and not feature.parts:
        yield FieldProblem(f"{path}.parts", "an empty list", "at least one of hour, weekday, age")
    if isinstance(feature, kinds.TimeParts) and side == "request" and "age" in feature.parts:
        yield FieldProblem(
            f"{path}.parts", "the age of request.time", "age of another column (it is request time minus it)"
        )
    if isinstance(feature, kinds.Numeric) and feature.within and side != "candidate":
        yield FieldProblem(f"{path}.within", feature.within, "within only for a candidate column")


def _check_column(spec: Spec, path: str, side: str, column: str, sound: Sound) -> Iterator[FieldProblem]:
    """That ``<side>.<column>`` can exist; item and user columns are known only when their files are read."""
    if side == "request" and column != "time":
        yield unknown_name(path, column, ("time",), "a request column")
    if not sound("$.dataset"):
        return
    if side in ("context", "candidate") and column not in _columns(spec, side):
        yield unknown_name(path, column, _columns(spec, side), f"a {side} column of the dataset")
    for owner, file in (("item", "an items file"), ("user", "a users file")):
        if side == owner and column != "id" and getattr(spec.dataset, f"{owner}s") is None:
            yield FieldProblem(path, describe(f"{side}.{column}"), f"{file} in the dataset")


def _check_counter(spec: Spec, path: str, feature: kinds.Counter, sound: Sound) -> Iterator[FieldProblem]:
    for i, window in enumerate(feature.windows):
        if window % feature.bucket:
            yield FieldProblem(f"{path}.windows[{i}]", str(window), f"a multiple of the bucket ({feature.bucket})")
    for field in ("windows", "actions"):
        if not getattr(feature, field) and sound(f"{path}.{field}"):
            yield FieldProblem(f"{path}.{field}", "an empty list", f"at least one of the {field} to count")
    parts = [part.partition(".") for part in feature.of.split("*")]
    if len(parts) > 2 or any(side not in ("user", "item") or (dot and not column) for side, dot, column in parts):
        expected = "user, item, user.<column>, item.<column> or a pair joined by *"
        yield FieldProblem(f"{path}.of", describe(feature.of), expected)
        return
    for side, _, column in parts:
        yield from _check_column(spec, f"{path}.of", side, column or "id", sound)


def _check_match(
    spec: Spec, path: str, feature: kinds.HistoryMatch | kinds.HistoryAlong, sound: Sound
) -> Iterator[FieldProblem]:
    side, dot, column = feature.of.partition(".")
    if side != "item" or (dot and not column):
        yield FieldProblem(f"{path}.of", describe(feature.of), "item or item.<column>")
        return
    yield from _check_column(spec, f"{path}.of", side, column or "id", sound)
    yield from _check_of_history(spec, path, feature, sound)
    if isinstance(feature, kinds.HistoryAlong):
        yield from _check_column(spec, f"{path}.along", "candidate", feature.along, sound)
        return
    for i, name in enumerate(feature.compare):
        yield from _check_column(spec, f"{path}.compare[{i}]", "candidate", name, sound)


def _check_of_history(
    spec: Spec,
    path: str,
    feature: kinds.HistoryMatch | kinds.HistoryAlong | kinds.HistoryCount,
    sound: Sound,
) -> Iterator[FieldProblem]:
    """That there is a history, and in it the actions that the feature names."""
    if not spec.history.length:
        kind = type(feature).__struct_config__.tag
        yield FieldProblem(f"{path}.kind", f"{kind} without a history", "history.length of at least 1")
    for i, action in enumerate(feature.actions):
        if action not in spec.history_actions and sound("$.history") and sound("$.tasks"):
            yield unknown_name(f"{path}.actions[{i}]", action, spec.history_actions, "an action of the history")


def _check_actions(spec: Spec, sound: Sound) -> Iterator[FieldProblem]:
    """Actions that nothing writes: a misspelt one would count zeros for ever, silently."""
    if len(spec.history_actions) > MAX_HISTORY_ACTIONS:
        found = f"{len(spec.history_actions)} actions"
        yield FieldProblem("$.history.actions", found, f"at most {MAX_HISTORY_ACTIONS}")
    known = _known_actions(spec)
    if known is None or not (sound("$.dataset") and sound("$.tasks")):
        return
    named = [(f"$.history.actions[{i}]", a) for i, a in enumerate(spec.history.actions)]
    for name, feature in spec.features.items():
        if isinstance(feature, kinds.Counter):
            for field in ("actions", "per"):
                named += [(f"$.features.{name}.{field}[{i}]", a) for i, a in enumerate(getattr(feature, field))]
    for path, action in named:
        if action not in known:
            yield unknown_name(path, action, known, "an action of the dataset")


def _known_actions(spec: Spec) -> tuple[str, ...] | None:
    """Every action that the log can get from the tasks and files, or None where a column names them."""
    named = [f.action for f in (spec.dataset.events, *spec.dataset.more_events, *spec.dataset.histories) if f]
    if any(not isinstance(action, str) for action in named):
        return None
    shown = getattr(_main_form(spec), "impression_action", "impression")
    return tuple(dict.fromkeys([*(spec.action_of(t) for t in spec.tasks), *map(str, named), shown]))


def _check_split(spec: Spec, sound: Sound) -> Iterator[FieldProblem]:
    split = spec.split
    if not sound("$.split"):
        return
    if split.validation + split.test >= 1:
        found = f"{split.validation:g} + {split.test:g}"
        yield FieldProblem("$.split", found, "validation + test below 1 (the rest is for training)")
    times = {f: getattr(split, f) for f in ("validation_from", "test_from") if getattr(split, f) is not None}
    for field, text in times.items():
        if split.by == "leave_last_out":
            yield FieldProblem(f"$.split.{field}", describe(text), "by: time (leave_last_out has no times)")
        elif _iso_time(text) is None:
            yield FieldProblem(f"$.split.{field}", describe(text), "an ISO time such as 2022-04-29 or 2022-04-29T12:00")
    first, second = (_iso_time(times.get(f, "")) for f in ("validation_from", "test_from"))
    if first is not None and second is not None and first >= second:
        yield FieldProblem("$.split.validation_from", describe(split.validation_from), f"before {split.test_from}")


def _iso_time(text: str) -> float | None:
    """Seconds since 1970 of an ISO time (naive ones are UTC), or None."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def unknown_name(path: str, name: str, known: Collection[str], what: str = "") -> FieldProblem:
    """The problem of a name that is none of the ``known``, with the nearest one."""
    near = did_you_mean(name, known)
    listed = ", ".join(known) or "(there is none)"
    hint = f"did you mean {near!r}?" if near else None
    return FieldProblem(path, describe(name), f"{what + ': ' if what else ''}one of {listed}", hint)


def _check_transitions(spec: Spec, sound: Sound) -> Iterator[FieldProblem]:
    if spec.model.transitions and spec.item_id_feature is None and sound("$.features"):
        expected = "a feature {kind: categorical, source: item.id}, whose codes transitions are counted by"
        yield FieldProblem("$.model.transitions", str(spec.model.transitions), expected)


def _check_levels(spec: Spec, sound: Sound) -> Iterator[FieldProblem]:
    if not isinstance(spec.model.levels, tuple):
        return
    if not 1 <= len(spec.model.levels) <= MOST_LEVELS and sound("$.model.levels"):
        yield FieldProblem("$.model.levels", f"{len(spec.model.levels)} levels", f"1 to {MOST_LEVELS}; 0: router alone")
    for name, own in (("expert_layers", "reads"), ("interaction_layers", "interaction_layers")):
        value = getattr(spec.model, name)
        if value is not None and sound(f"$.model.{name}"):
            yield FieldProblem(f"$.model.{name}", str(value), f"{own} of each entry of model.levels, which is a list")


def _check_foreign(spec: Spec, sound: Sound) -> Iterator[FieldProblem]:
    taken: set[int] = set()
    for i, foreign in enumerate(spec.model.foreign):
        path = f"$.model.foreign[{i}]"
        if foreign.level in taken and sound(path):
            yield FieldProblem(f"{path}.level", f"level {foreign.level} again", "one module a level")
        taken.add(foreign.level)
