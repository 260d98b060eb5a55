"""What a failure looks like: one readable message on standard error, an exit code, no traceback."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from small_films import Command, SmallDemo

from depthrank.cli import app as cli
from depthrank.errors import DataError, FieldProblem


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "absent.yaml", "--out", "a"], 1, "there is no spec at absent.yaml: give the path of a ranking.yaml"),
        (["rank", "a"], 1, "give --request F (or -), or --batch F.parquet --out F.parquet"),
        (["rank", "a", "--batch", "b.parquet"], 1, "--batch and --out go together"),
        (["rank", "a", "--request", "absent.json"], 1, "absent.json: No such file or directory"),
        (["log", "stats", "--log", "kafka:x"], 1, "no log backend is called 'kafka'"),
        (["log", "export", "--log", "lmdb:x", "--out", "f.csv"], 1, "expected a name that ends in .parquet"),
        (["bench", "http://127.0.0.1:1"], 1, "cannot be reached"),
        (["trian"], 2, "Did you mean 'train'"),
        (["train"], 2, "Missing argument 'SPEC'"),
        (["serve", "a", "--port", "99999"], 2, "Invalid value for '--port'"),
    ],
)
def test_a_mistake_is_one_message_and_an_exit_code(
    depthrank: Command, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = depthrank(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("verb", ["inspect", "serve", "bench"])
def test_a_missing_artifact_is_told(depthrank: Command, tmp_path: Path, verb: str) -> None:
    done = depthrank(verb, tmp_path / "absent", *(["--port", "0"] if verb == "serve" else []))
    assert done.returncode == 1
    assert done.stderr.startswith("depthrank: ")
    assert "absent" in done.stderr and "Traceback" not in done.stderr


def test_a_taken_port_is_told(depthrank: Command, small_demo: SmallDemo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = depthrank("serve", small_demo.artifact, "--port", listener.getsockname()[1])
    assert done.returncode == 1
    assert "the port is taken" in done.stderr


@pytest.mark.parametrize("body", ["{", json.dumps({"user": "1", "candidates": [[]]})])
def test_a_wrong_request_is_told(depthrank: Command, small_demo: SmallDemo, body: str) -> None:
    done = depthrank("rank", small_demo.artifact, "--request", "-", stdin=body)
    assert done.returncode == 1
    assert done.stderr.startswith("depthrank: ") and "Traceback" not in done.stderr


def run_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> tuple[int, str]:
    def broken() -> None:
        raise error

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0), capsys.readouterr().err


def test_all_problems_of_one_error_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = DataError("the data has 2 mistakes:", [FieldProblem("$.a", "x", "y"), FieldProblem("$.b", "x", "y")])
    assert run_with(monkeypatch, capsys, error) == (
        1, "depthrank: the data has 2 mistakes:\n  - $.a: found x, expected y\n  - $.b: found x, expected y\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "out/x"), 1, "out/x: No space left on device"),
        (MemoryError(), 1, "out of memory; use fewer candidates"),
        (
            ModuleNotFoundError("no redis", name="redis"),
            1,
            "the package 'redis' is not installed; run: pip install redis",
        ),
        (RuntimeError("odd"), 70, "RuntimeError: odd (this is a bug in depthrank; run depthrank --debug"),
    ],
)
def test_other_failures_are_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    got, said = run_with(monkeypatch, capsys, error)
    assert got == code
    assert said.startswith(f"depthrank: {message}") and said.count("\n") == 1


def test_debug_shows_the_traceback(depthrank: Command, tmp_path: Path) -> None:
    done = depthrank("--debug", "train", tmp_path / "absent.yaml", "--out", tmp_path / "a")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "SpecError" in done.stderr
