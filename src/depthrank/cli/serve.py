"""``depthrank serve``: an artifact over HTTP."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthrank.cli.options import Artifact, Log, Threads, bytes_of
from depthrank.cli.terminal import say
from depthrank.cli.threads import set_torch_threads

if TYPE_CHECKING:
    from depthrank.server.settings import ServerSettings

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
    deltas: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of deltas: those in it serve, and later ones as they come."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="F", help="A YAML file of settings; docs/operations.md lists them.")
    ] = None,
    tokens: Annotated[Path | None, typer.Option(metavar="F", help="A file of API tokens; see depthrank token.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="F", help="TLS: the certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="F", help="TLS: its key (PEM).")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let the network in without tokens: something else guards the port.")
    ] = False,
    log_format: Annotated[
        str | None, typer.Option("--log-format", help="text, or json: an object a line, with request ids.")
    ] = None,
) -> None:
    """Serve an artifact over HTTP until SIGTERM or Ctrl-C; the page at / shows a ranking.

    Options go before DEPTHRANK_* environment variables, these before the file of settings.

    Example: depthrank serve demo/artifact --log lmdb:demo/events --port 8080
    """
    user_state_bytes = bytes_of(user_cache, "--user-cache")
    with nothing_collected():
        set_torch_threads(threads)
        import depthrank.engine  # noqa: F401 - here, not while the artifact loads
        from depthrank.server import serve as run
        from depthrank.server.settings_sources import load_settings
        from depthrank.server.telemetry.json_logs import configure_logs

    given = {
        "access.tokens_file": _text(tokens),
        "access.tls_cert": _text(tls_cert),
        "access.tls_key": _text(tls_key),
        "access.insecure": insecure or None,
        "telemetry.log_format": log_format,
        "models.deltas": _text(deltas),
    }

    def read_settings() -> ServerSettings:
        return load_settings(settings, os.environ, given)

    chosen = read_settings()
    configure_logs(chosen.telemetry.log_format)

    run(
        str(artifact),
        host=host,
        port=port,
        log=log,
        workers=workers,
        settings=chosen,
        on_started=_started,
        user_state_bytes=user_state_bytes,
        read_settings=read_settings,
    )


@contextmanager
def nothing_collected() -> Iterator[None]:
    """For imports: what they make stays for ever, so looking through it for garbage costs a tenth of the start, and
    some ten milliseconds of standstill each time later. What is made afterwards is collected as ever."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _started(address: str) -> None:
    say(f"serving at {address}")
