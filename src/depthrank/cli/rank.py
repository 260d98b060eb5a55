"""``depthrank rank``: one request, or a whole inventory, without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthrank.cli.options import Artifact, Log, Threads
from depthrank.cli.terminal import UsageProblem, at_terminal, say
from depthrank.cli.threads import set_torch_threads

if TYPE_CHECKING:
    from depthrank.engine import Ranker


def rank(
    artifact: Artifact,
    request: Annotated[str | None, typer.Option(metavar="F|-", help="A request as JSON (- for stdin).")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why: plan, levels, features.")] = False,
    batch: Annotated[
        Path | None, typer.Option(metavar="F.parquet", help="Requests, one a row: user, candidates, top, context...")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="F.parquet", help="Where the answers of --batch go.")] = None,
    log: Log = None,
    threads: Threads = None,
) -> None:
    """Rank candidates and print the answer as JSON; or answer every request of a Parquet file.

    Example: echo '{"user": "1", "candidates": ["50", "172"]}' | depthrank rank demo/artifact --request -
    """
    if (request is None) == (batch is None):
        raise UsageProblem("give --request F (or -), or --batch F.parquet --out F.parquet")
    if (batch is None) != (out is None):
        raise UsageProblem("--batch and --out go together")
    body = None if request is None else _read(request)
    set_torch_threads(threads)
    from depthrank.engine import Ranker

    ranker = Ranker.load(artifact, log=log)
    try:
        if body is not None:
            say(_rank_one(ranker, body, explain))
        else:
            from depthrank.cli.rank_batch import rank_batch

            assert batch is not None and out is not None
            answers = rank_batch(ranker, batch, out, progress=at_terminal())
            say(f"wrote {answers:,} answers to {out}")
    finally:
        ranker.close()


def _read(request: str) -> bytes:
    return sys.stdin.buffer.read() if request == "-" else Path(request).read_bytes()


def _rank_one(ranker: Ranker, body: bytes, explain: bool) -> str:
    from depthrank.schema import Limits
    from depthrank.schema.wire import decode_request, encode_answer

    asked = decode_request(body, Limits(), wall_clock=ranker.spec.dataset.main.time != "order")
    asked.explain = asked.explain or explain
    answer = ranker.rank(asked)
    decision = (answer.explain or {}).get("decision") or {}
    if "record" in decision:  # a person's own file: it may say where the artifact lies, so that it replays by itself
        decision["record"]["artifact"] = str(ranker.artifact.path.resolve())
    return encode_answer(answer).decode()
