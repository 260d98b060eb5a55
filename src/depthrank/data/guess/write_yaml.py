"""What was found in a folder, as the lines of a ``ranking.yaml``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from depthrank.data.guess.kinds import kind_of
from depthrank.data.guess.main_file import Main
from depthrank.data.guess.number_runs import runs_of
from depthrank.data.guess.past_features import Line
from depthrank.data.guess.sent_columns import Sent
from depthrank.data.guess.tables import Column, Table

MOST_REPEATS = 0.05  # beyond it users take again what they had
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NOT_TEXT = {"true", "false", "null", "yes", "no", "on", "off", "nan", "inf"}


@dataclass(frozen=True, eq=False)
class Found:
    """All parts of a spec. ``items``, ``users``: the file and its key; ``past``: features of what happened before;
    ``repeated``: the share of the rows whose user had the item before."""

    name: str
    main: Main
    items: tuple[Table, str] | None
    users: tuple[Table, str] | None
    more: Sequence[Main]
    unused: Sequence[Table]
    sent: Sent
    past: dict[str, Line]
    repeated: float


def written(found: Found) -> str:
    """The whole text."""
    lines = [
        f"# A first guess from the files of {found.name}: read it, and change what is wrong (docs/data.md).",
        f"name: {quoted(re.sub(r'[^A-Za-z0-9_-]+', '-', found.name).strip('-') or 'ranking')}",
        "",
        "dataset:",
        *_indented(_entity_lines(found)),
        *_indented(_main_lines(found.main, found.sent)),
        *_indented(_more_lines(found)),
        "",
        "features:",
        *_indented(_feature_lines(found)),
        "",
        "tasks:",
        *_indented(_task_lines(found.main)),
        _value_line(found.main),
        "",
        *_rest_lines(found),
    ]
    return "\n".join(lines) + "\n"


def quoted(name: str) -> str:
    """A name as YAML reads it back."""
    return name if _PLAIN.fullmatch(name) and name.lower() not in _NOT_TEXT else json.dumps(name, ensure_ascii=False)


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _entity_lines(found: Found) -> Iterator[str]:
    for side, entities in (("items", found.items), ("users", found.users)):
        if entities is not None:
            yield f"{side}: {{path: {quoted(entities[0].name)}, id: {quoted(entities[1])}}}"


def _main_lines(main: Main, sent: Sent) -> Iterator[str]:
    yield f"{main.form}:"
    yield f"  path: {quoted(main.table.name)}"
    if main.user is not None:
        yield f"  user: {quoted(main.user)}" + ("  # nobody is signed in: an id of the visit" if main.anonymous else "")
    if main.item is not None:
        yield f"  {'candidates' if main.form == 'requests' else 'item'}: {quoted(main.item)}"
    yield f"  time: {_time(main)}"
    if main.form == "events":
        yield f"  action: {_action(main)}" + ("  # of every row: call it what it is" if main.action is None else "")
        return
    if main.form == "impressions":
        if main.user is not None:
            yield f"  request: {_grouping(main)}"
        if main.position is not None:
            yield f"  position: {quoted(main.position)}"
    elif main.request not in (None, main.user):
        yield f"  request: {quoted(main.request or '')}"
    if main.separator is not None:
        yield f'  separator: "{main.separator}"'
    if sent.context:
        yield f"  context: [{_listed(sent.context)}]  # one value a request"
    if sent.candidate:
        names = [quoted(name) for name, _ in runs_of(column.name for column in sent.candidate)]
        named = f"{{{', '.join(f'{name}: {name}' for name in names)}}}"
        listed = f"[{_listed(sent.candidate)}]"
        yield f"  candidate: {named if main.form == 'requests' else listed}  # one value a candidate"


def _listed(columns: Sequence[Column]) -> str:
    return ", ".join(quoted(name) for name, _ in runs_of(column.name for column in columns))


def _time(main: Main) -> str:
    unit = None if main.time is None else main.table.columns[main.time].time_unit
    return "order" if main.time is None or unit is None else f"{{column: {quoted(main.time)}, unit: {unit}}}"


def _grouping(main: Main) -> str:
    column = main.user if main.anonymous else main.request
    if column is None or (not main.anonymous and main.table.is_key(column)):
        return "{gap: 30m}  # no id of requests: after a pause of the user another one starts"
    return f"{{column: {quoted(column)}}}"


def _action(main: Main) -> str:
    return quoted(main.tasks[0]) if main.action is None else f"{{column: {quoted(main.action)}}}"


def _more_lines(found: Found) -> Iterator[str]:
    if found.more:
        yield "more_events:  # what the same users did besides"
    for event in found.more:
        yield f"  - path: {quoted(event.table.name)}"
        yield f"    user: {quoted(event.user or '')}"
        yield f"    item: {quoted(event.item or '')}"
        yield f"    time: {_time(event)}"
        yield f"    action: {_action(event)}"
    for table in found.unused:
        yield f"# not used: {table.name} ({', '.join(list(table.columns)[:8])})"


def _feature_lines(found: Found) -> Iterator[str]:
    main, lines = found.main, _Lines()
    rare = "" if main.form == "events" else ", min_count: 5"
    if main.item is not None:
        lines.add("item", Line(f"kind: categorical, source: item.id{rare}"), "the")
    left_out = dict(found.sent.left_out)
    for side, entities in (("item", found.items), ("user", found.users)):
        if entities is None:
            continue
        for column in (c for c in entities[0] if c.name != entities[1]):
            if kind_of(column).kind:
                lines.add(column.name, _line(side, column), side)
            else:
                left_out[f"{side}.{column.name}"] = kind_of(column).why
    for side, columns in (("context", found.sent.context), ("candidate", found.sent.candidate)):
        for column in columns:
            lines.add(column.name, _line(side, column, found.sent.several), side)
    if main.time is not None:
        lines.add("clock", Line("kind: time", "in UTC: give utc_offset_h where users live elsewhere"), "request")
    if main.position is not None and main.form == "impressions":
        lines.add("shown_at", Line("kind: position", "in training only, against position bias"), "request")
    for name, line in found.past.items():
        lines.add(name, line, "past")
    yield from lines.texts()
    yield from (f"# left out: {name}: {why}" for name, why in left_out.items())


def _line(side: str, column: Column, several: bool = False) -> Line:
    guess = kind_of(column)
    within = "within: request" if several and side == "candidate" and guess.kind == "numeric" else ""
    parts = [f"kind: {guess.kind}", f"source: {quoted(f'{side}.{column.name}')}", guess.options, within]
    return Line(", ".join(filter(None, parts)), guess.why)


class _Lines:
    """Features by name; a name that is taken gets its side in front."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    def add(self, name: str, line: Line, side: str) -> None:
        while name in self._lines:
            name = f"{side}_{name}"
        self._lines[name] = line

    def texts(self) -> Iterator[str]:
        written = (f"{{{line.body}}}" + (f"  # {line.why}" if line.why else "") for line in self._lines.values())
        yield from (f"{quoted(name)}: {line}" for name, line in runs_of(self._lines, written))


def _task_lines(main: Main) -> Iterator[str]:
    if main.form == "events":
        yield from (f"{quoted(task)}: {{}}" for task in main.tasks)
    for label in main.labels if main.form != "events" else ():
        field = "ids" if label.is_ids else "column"
        limit = "" if label.at_least is None else f", at_least: {label.at_least:g}"
        share = "" if label.positives is None else f"  # {label.positives:.2%} positives"
        yield f"{quoted(label.task)}: {{{field}: {quoted(label.column)}{limit}}}{share}"


def _value_line(main: Main) -> str:
    worth = {label.task: label.value for label in main.labels} if main.form != "events" else {}
    weights = ", ".join(f"{quoted(task)}: {worth.get(task, 1)}" for task in main.tasks)
    return f"value: {{weights: {{{weights}}}}}" + ("  # the gain of NDCG" if max(worth.values(), default=1) > 1 else "")


def _rest_lines(found: Found) -> Iterator[str]:
    if found.main.anonymous:
        yield "history: {length: 0}"
    yield "split: {by: time, validation: 0.1, test: 0.1}  # the last tenths"
    if found.main.form == "events":
        again = found.repeated > MOST_REPEATS
        why = f"  # {found.repeated:.0%} of the rows repeat what the user had" if again else ""
        yield f"evaluation: {{candidates: all, exclude_seen: {str(not again).lower()}, max_requests: 5000}}{why}"
