"""``depthrank serve``: an artifact over HTTP."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from depthrank.cli.options import Artifact, Log, Threads, bytes_of
from depthrank.cli.terminal import say
from depthrank.cli.threads import set_torch_threads

DEFAULT_PORT = 8080


def serve(
    artifact: Artifact,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 picks a free one.")] = DEFAULT_PORT,
    log: Log = None,
    workers: Annotated[int, typer.Option(min=0, help="Engine processes; 0 runs all in one process.")] = 0,
    threads: Threads = None,
    user_cache: Annotated[
        str, typer.Option("--user-cache", metavar="SIZE", help="Memory for encoded histories: 256MB, 2GB; 0: none.")
    ] = "256MB",
) -> None:
    """Serve an artifact over HTTP until SIGTERM or Ctrl-C; the page at / shows a ranking.

    Example: depthrank serve demo/artifact --log lmdb:demo/events --port 8080
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    user_state_bytes = bytes_of(user_cache, "--user-cache")
    set_torch_threads(threads)
    from depthrank.server import serve as run

    run(
        str(artifact),
        host=host,
        port=port,
        log=log,
        workers=workers,
        on_started=_started,
        user_state_bytes=user_state_bytes,
    )


def _started(address: str) -> None:
    say(f"serving at {address}")
