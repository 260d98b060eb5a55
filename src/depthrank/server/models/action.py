"""The body of ``POST /v1/models``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from depthrank.errors import FieldProblem, RequestError
from depthrank.server.models.labels import Label

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
LABELS = "stable, canary or shadow"
NEEDED = {
    "load": ("path",),
    "label": ("model", "label"),
    "unload": ("model",),
    "delta": ("path",),
    "promote": (),
    "rollback": (),
}


class ModelAction(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``load``: ``path`` (an artifact folder inside a model folder), and a ``label`` for it where one is wanted.
    ``label``: of a loaded ``model``. ``unload``: a ``model``. ``promote``: the canary becomes stable. ``rollback``: the
    canary loses its label; where there is none, stable and its predecessor change places. ``share``: of users that a
    canary answers, or of requests that a shadow is sent; 0.1 unless given. ``delta``: ``path``, the next delta's folder
    inside a model folder, of ``model`` (stable unless given)."""

    action: Literal["load", "label", "unload", "delta", "promote", "rollback"]
    path: str | None = None
    model: str | None = None
    label: Label | None = None
    share: Share | None = None


def read_action(plain: dict[str, Any]) -> ModelAction:
    """The checked body; raises RequestError with the path of each wrong field."""
    try:
        action = msgspec.convert(plain, ModelAction)
    except msgspec.ValidationError as error:
        told, _, path = str(error).partition(" - at `")
        problem = FieldProblem(path.rstrip("`") or "$", told, "an action as /openapi.json describes it")
        raise RequestError("the action has a wrong field:", [problem]) from None
    missing = [name for name in NEEDED[action.action] if getattr(action, name) is None]
    if missing:
        expected = {"path": "an artifact folder", "model": "the id of a loaded model", "label": LABELS}
        problems = [FieldProblem(f"$.{name}", "nothing", f"{expected[name]}, to {action.action}") for name in missing]
        raise RequestError("the action has wrong fields:", problems)
    return action
