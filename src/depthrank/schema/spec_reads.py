"""What a spec reads of what clients send: actions of events, and columns of requests. The rest is kept, not read."""

from __future__ import annotations

from dataclasses import dataclass

from depthrank.schema.spec import Spec


@dataclass(frozen=True)
class ColumnsRead:
    """Names of the context's values and of the candidates' columns that features read, in the spec's order."""

    context: tuple[str, ...]
    candidates: tuple[str, ...]


def actions_read(spec: Spec) -> frozenset[str]:
    """The actions that are a task's positive, stand in histories, are counted, or mark what was shown."""
    counted = (
        action
        for feature in spec.features.values()
        for name in ("actions", "per")
        for action in getattr(feature, name, ())
    )
    shown = getattr(spec.dataset.main, "impression_action", "impression")
    return frozenset((shown, *map(spec.action_of, spec.tasks), *spec.history_actions, *counted))


def columns_read(spec: Spec) -> ColumnsRead:
    """What a request should carry. The column that values are multiplied by is told apart (``Value.times``)."""
    context: dict[str, None] = {}
    candidates: dict[str, None] = {}
    for feature in spec.features.values():
        side, _, column = getattr(feature, "source", "").partition(".")
        if side == "context":
            context[column] = None
        elif side == "candidate":
            candidates[column] = None
        along = getattr(feature, "along", None)
        candidates.update(dict.fromkeys((*getattr(feature, "compare", ()), *([along] if along else []))))
    return ColumnsRead(tuple(context), tuple(name for name in candidates if name != spec.value.times))
