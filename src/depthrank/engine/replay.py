"""A logged decision, made again: the same inputs give the same decision, or the record or the policy is another's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from depthrank.errors import ArtifactError
from depthrank.routing import AdaptivePolicy, Decision, DecisionInputs
from depthrank.routing.plain import fields_of, finite_number, whole_number
from depthrank.schema.request import Mode

MODES = get_args(Mode)


@dataclass(frozen=True)
class Replayed:
    """The decision as logged and as made now; ``differing`` names the fields that are not equal."""

    logged: dict[str, Any]
    again: Decision
    differing: tuple[str, ...]


def record_in(raw: bytes) -> object:
    """The decision record in a file: a record itself, or an answer with ``explain``. Raises ArtifactError."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"the record is no JSON: {error}") from None
    explained = found.get("explain") if isinstance(found, dict) else None
    if not isinstance(explained, dict):
        return found
    decision = explained.get("decision")
    if not isinstance(decision, dict) or "record" not in decision:
        raise ArtifactError("the answer holds no adaptive decision: its mode fixed its plan, or nothing was fitted")
    return decision["record"]


def replay(policy: AdaptivePolicy, record: object) -> Replayed:
    """Decide again from a record's inputs. Raises ArtifactError for a damaged record, or one of another model."""
    fields = fields_of(record, ("made_for", "inputs", "decision"), "decision record")
    if fields["made_for"] != policy.made_for:
        raise ArtifactError(
            f"the record is of model {fields['made_for']!r:.60}, the policy of {policy.made_for!r:.60}: "
            "replay it with the artifact that made it"
        )
    logged = fields_of(fields["decision"], tuple(Decision.__dataclass_fields__), "logged decision")
    again = policy.decide(decision_inputs(fields["inputs"]))
    plain = again.to_plain()
    return Replayed(logged, again, tuple(name for name, value in plain.items() if logged[name] != value))


def decision_inputs(plain: object) -> DecisionInputs:
    """A record's inputs, checked: a record may come from anybody."""
    fields = fields_of(plain, tuple(DecisionInputs.__dataclass_fields__), "decision inputs")
    for name in ("num_candidates", "history_length", "top"):
        whole_number(fields[name], name, 0, 1 << 40)
    for name in ("budget", "time_left_ms", "price", "request_value"):
        if fields[name] is not None:
            finite_number(fields[name], name)
    if fields["mode"] not in MODES or not isinstance(fields["warm"], bool):
        raise ArtifactError(f"the decision record is damaged: mode {fields['mode']!r:.40}, warm {fields['warm']!r:.40}")
    return DecisionInputs.from_plain(plain)
