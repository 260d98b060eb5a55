"""Compare the log, the users' rows and the indexes of a Redis log with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from depthrank.events.history import ROW
from depthrank.events.log import VerifyReport
from depthrank.events.on_redis.records import HEAD, Head, Record
from depthrank.events.on_redis.server import Client

MOST_PROBLEMS = 100


def verify_server(
    client: Client, key: Callable[[str], bytes], records: Iterator[tuple[int, Record]], until: int
) -> VerifyReport:
    """Checks the events up to the log position ``until``; ``records`` are those of the log."""
    problems: list[str] = []
    items, actions = _codes(client, key, "item", problems), _codes(client, key, "action", problems)
    from_users: dict[int, tuple[str, int, int, int, int]] = {}
    heads = client.hgetall(key("users"))
    for user, packed in heads.items():
        name, head = user.decode(), Head(*HEAD.unpack(packed))
        rows = np.frombuffer(client.get(key("h:") + user) or b"", ROW)
        order = np.lexsort((rows["log_position"], rows["time_ms"]))
        if not np.array_equal(order, np.arange(len(rows))):
            problems.append(f"user {name!r}: events are out of order")
        if head.position <= until and len(rows) != head.events:
            problems.append(f"user {name!r}: {len(rows)} events, the head says {head.events}")
        for time_ms, appended_ms, position, item, action, _ in rows.tolist():
            if position <= until:
                from_users[position] = (name, item, action, time_ms, appended_ms)
    events = 0
    for position, record in records:
        events += 1
        item, action = items.get(record.item, -1), actions.get(record.action, -1)
        expected = (record.user, item, action, record.time_ms, record.appended_ms)
        if from_users.pop(position, None) != expected:
            problems.append(f"event {position}: the log and the user's rows differ")
        if record.event_id is not None and int(client.hget(key("event_ids"), record.event_key) or -1) != position:
            problems.append(f"event {position}: its event id is not indexed")
    problems += [f"event {position} is not in the log" for position in from_users]
    return VerifyReport(events, len(heads), tuple(problems[:MOST_PROBLEMS]))


def _codes(client: Client, key: Callable[[str], bytes], kind: str, problems: list[str]) -> dict[str, int]:
    codes = {value.decode(): int(code) for value, code in client.hgetall(key(f"{kind}s")).items()}
    ids = {int(code): value.decode() for code, value in client.hgetall(key(f"{kind}_ids")).items()}
    if {code: value for value, code in codes.items()} != ids:
        problems.append(f"{kind}s: codes and ids disagree")
    return codes
