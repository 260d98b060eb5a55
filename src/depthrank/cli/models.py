"""``depthrank models``: the versions that a server has loaded, and what to do with them."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from depthrank.cli.terminal import UsageProblem, say, table
from depthrank.errors import DepthrankError

TOKEN_VARIABLE = "DEPTHRANK_TOKEN"
LOAD_TIMEOUT_S = 1_800.0
USES_MODEL = ("label", "unload")
ACTIONS = ("list", "load", "label", "unload", "promote", "rollback")


class ModelsError(DepthrankError):
    """The server refused, or cannot be reached."""


def models(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server, such as http://127.0.0.1:8080.")],
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="list, load, label, unload, promote or rollback.")
    ] = "list",
    what: Annotated[
        str | None, typer.Argument(metavar="WHAT", help="load: an artifact folder; label, unload: a model id.")
    ] = None,
    as_label: Annotated[
        str | None, typer.Argument(metavar="LABEL", help="For label: stable, canary or shadow.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="For load: the label it gets.")] = None,
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of users (canary) or requests (shadow); 0.1 unless given.")
    ] = None,
) -> None:
    """List a server's model versions, or load, label, unload, promote or roll back. The token: DEPTHRANK_TOKEN.

    Example: depthrank models http://127.0.0.1:8080 rollback
    """
    body = None if action == "list" else _body(action, what, as_label or label, share)
    answer = _call(url.rstrip("/") + "/v1/models", body)
    for view in answer["models"]:
        view["labels"] = ", ".join(view["labels"]) or "-"
        view["answers"], view["errors"] = (int(view["counts"].get(name, 0)) for name in ("answers", "errors"))
    columns = ("model", "labels", "share", "status", "answers", "errors", "note")
    rows = [["" if view[name] is None else view[name] for name in columns] for view in answer["models"]]
    table("models", list(columns), rows)
    for reason in answer["canary"].get("reasons", ()):
        say(f"canary: {reason}")


def _body(action: str, what: str | None, label: str | None, share: float | None) -> dict[str, Any]:
    if action not in ACTIONS:
        raise UsageProblem(f"{action!r} is no action: one of {', '.join(ACTIONS)}")
    if action in ("load", *USES_MODEL) and what is None:
        raise UsageProblem(f"{action} what? an artifact folder to load, or the id of a loaded model")
    body: dict[str, Any] = {"action": action}
    if what is not None:
        body["model" if action in USES_MODEL else "path"] = what
    return body | {name: value for name, value in (("label", label), ("share", share)) if value is not None}


def _call(address: str, body: dict[str, Any] | None) -> dict[str, Any]:
    import httpx

    token = os.environ.get(TOKEN_VARIABLE)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        if body is None:
            answer = httpx.get(address, headers=headers, timeout=60)
        else:
            answer = httpx.post(address, json=body, headers=headers, timeout=LOAD_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise ModelsError(f"{address} cannot be reached: {error}") from None
    except ValueError as error:
        raise ModelsError(f"{address} is no address: {error}") from None
    found = _json(answer)
    if answer.status_code != 200:
        told = found.get("error", {})
        hints = [f"{p.get('path')}: {p.get('hint') or p.get('expected')}" for p in told.get("problems", ())]
        raise ModelsError("; ".join([str(told.get("message", f"status {answer.status_code}")), *hints]))
    return found


def _json(answer: Any) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ModelsError(f"{answer.url} is no depthrank server: it answered {answer.status_code} and no JSON object")
    return found
