"""Token files: read, refused, read again; and what a wrong one costs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from depthrank.server.access.settings import AccessSettings, Grant
from depthrank.server.access.tokens import LOOK_AGAIN_S, Tokens, TokensError, hash_of, new_token, read_tokens


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def line(name: str, token: str) -> str:
    return f"  - {{name: {name}, scopes: [rank], sha256: '{hash_of(token)}'}}\n"


def replace(file: Path, text: str) -> None:
    """As an operator's tool does it: a new file in the old one's place."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


def test_a_token_is_found_by_its_text_alone(tmp_path: Path) -> None:
    token = new_token()
    tokens = Tokens(AccessSettings(tokens=(Grant(name="a", scopes=("rank",), sha256=hash_of(token)),)))
    found = tokens.find(token)
    assert found is not None and found.name == "a"
    for wrong in ("", token[:-1], token + "x", token.lower(), hash_of(token), "é\udcff"):
        assert tokens.find(wrong) is None


def test_every_token_is_compared_also_after_one_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    import depthrank.server.access.tokens as module

    compared = []
    original = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append(b) or original(a, b))
    grants = tuple(Grant(name=n, scopes=("rank",), sha256=hash_of(n)) for n in "abc")
    Tokens(AccessSettings(tokens=grants)).find("a")
    assert compared == [g.sha256 for g in grants]


def test_a_file_that_changes_is_read_again_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "tokens.yaml", Clock()
    file.write_text("tokens:\n" + line("a", "one"))
    tokens = Tokens(AccessSettings(tokens_file=str(file)), clock)
    replace(file, "tokens:\n" + line("b", "two"))
    assert tokens.find("one") is not None  # not looked again yet
    clock.now_s += LOOK_AGAIN_S
    assert tokens.find("one") is None and tokens.find("two") is not None
    replace(file, "tokens: [{name: c, scopes: [rank], sha256: clear-text-secret}]")
    clock.now_s += LOOK_AGAIN_S
    assert tokens.find("two") is not None
    assert "the tokens stay as they were" in caplog.text
    assert "clear-text-secret" not in caplog.text
    file.unlink()
    clock.now_s += LOOK_AGAIN_S
    assert tokens.find("two") is not None and tokens.required


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text("tokens: []\n")
    tokens = Tokens(AccessSettings(tokens_file=str(file)))
    assert tokens.required and tokens.find("") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tokens: [", "not YAML"),
        ("tokens: [{name: a, scopes: [rank], sha256: abc}]", "64 hex digits"),
        ("tokens: [{name: a, scopes: [], sha256: '" + "0" * 64 + "'}]", "scopes"),
        ("tokens: [{name: a, scopes: [write], sha256: '" + "0" * 64 + "'}]", "one of rank, events, admin"),
        ("tokens: [{name: a b, scopes: [rank], sha256: '" + "0" * 64 + "'}]", "name"),
        ("token: []", "did you mean 'tokens'?"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(text)
    with pytest.raises(TokensError, match=r"cannot be used|not YAML") as caught:
        read_tokens(file)
    assert words in str(caught.value)


def test_two_tokens_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text("tokens:\n" + line("a", "one") + line("a", "two"))
    with pytest.raises(TokensError, match="used twice: a"):
        Tokens(AccessSettings(tokens_file=str(file)))
    with pytest.raises(TokensError, match="cannot read"):
        Tokens(AccessSettings(tokens_file=str(tmp_path / "none")))
