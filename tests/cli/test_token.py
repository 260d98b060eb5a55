"""``depthrank token``: what it prints is what a server's token file wants."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from depthrank.cli.app import app
from depthrank.cli.terminal import UsageProblem
from depthrank.server.access.settings import AccessSettings
from depthrank.server.access.tokens import Tokens


def test_the_printed_line_lets_a_server_know_the_printed_token(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["token", "shop", "--scopes", "rank, admin"], catch_exceptions=False)
    shown, _, line = done.stdout.splitlines()
    file = tmp_path / "tokens.yaml"
    file.write_text(f"tokens:\n{line}\n")
    found = Tokens(AccessSettings(tokens_file=str(file))).find(shown.rpartition(" ")[2])
    assert found is not None
    assert (found.name, found.scopes) == ("shop", ("rank", "admin"))


def test_two_tokens_are_never_the_same() -> None:
    assert len({CliRunner().invoke(app, ["token", "a"]).stdout for _ in range(3)}) == 3


@pytest.mark.parametrize("arguments", [["a b"], ["a", "--scopes", "write"], ["a", "--scopes", ","]])
def test_a_wrong_name_or_scope_is_told(arguments: list[str]) -> None:
    with pytest.raises(UsageProblem, match="scopes some of rank, events, admin"):
        CliRunner().invoke(app, ["token", *arguments], catch_exceptions=False)
