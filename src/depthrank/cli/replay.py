"""``depthrank replay``: a logged routing decision, made again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthrank.cli.terminal import UsageProblem, say
from depthrank.errors import DepthrankError

if TYPE_CHECKING:
    from depthrank.engine.replay import Replayed


class ReplayError(DepthrankError):
    """A decision made again came out otherwise."""


def replay(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="A decision record, or an answer of rank --explain.")],
    artifact: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The artifact. Default: the one that the record names.")
    ] = None,
) -> None:
    """Decide again how deep a request goes, from what was logged, and check that it comes out the same.

    Example: depthrank rank demo/artifact --request r.json --explain > answer.json; depthrank replay answer.json
    """
    from depthrank.artifact import load_artifact
    from depthrank.engine.replay import record_in
    from depthrank.engine.replay import replay as decide_again

    found = record_in(sys.stdin.buffer.read() if record == "-" else Path(record).read_bytes())
    named = found.get("artifact") if isinstance(found, dict) else None
    if artifact is None and not isinstance(named, str):
        raise UsageProblem("the record names no artifact: give --artifact DIR")
    policy = load_artifact(artifact or Path(str(named))).adaptive
    if policy is None:
        raise ReplayError(f"{artifact or named} has no adaptive policy: no decision of it can be replayed")
    replayed = decide_again(policy, found)
    if replayed.differing:
        raise ReplayError(_difference(replayed))
    for words in replayed.again.reasons:
        say(words)
    say("the same decision")


def _difference(replayed: Replayed) -> str:
    again = replayed.again.to_plain()
    told = [f"{name}: logged {replayed.logged[name]!r:.200}, now {again[name]!r:.200}" for name in replayed.differing]
    return "\n".join(["the decision comes out otherwise:", *told])
