"""``depthrank token``: a new API token, shown once, and the line that lets a server know it."""

from __future__ import annotations

from typing import Annotated

import typer

from depthrank.cli.terminal import UsageProblem, say

SCOPES = ("rank", "events", "admin")


def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is; quotas, metrics and logs show the name.")],
    scopes: Annotated[str, typer.Option(help="What it may do: some of rank, events, admin.")] = "rank,events",
) -> None:
    """Make an API token. It is shown once; the server keeps its hash only.

    Example: depthrank token shop --scopes rank,events
    """
    import msgspec

    from depthrank.server.access.settings import Grant
    from depthrank.server.access.tokens import hash_of, new_token

    listed = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    made = new_token()
    try:
        msgspec.convert({"name": name, "scopes": listed, "sha256": hash_of(made)}, Grant)
    except msgspec.ValidationError:
        raise UsageProblem(
            f"a token's name is letters, digits and ._-, its scopes some of {', '.join(SCOPES)}; "
            f"found {name!r} and {scopes!r}"
        ) from None
    say(f"token (shown once): {made}")
    say("for the file of serve --tokens, under `tokens:`")
    say(f"  - {{name: {name}, scopes: [{', '.join(listed)}], sha256: '{hash_of(made)}'}}")
