"""``depthrank bench``: an open-loop load on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.options import Log
from depthrank.cli.terminal import UsageProblem, note, table, write_json


def bench(
    target: Annotated[str, typer.Argument(metavar="DIR|URL", help="An artifact (served for the run) or a server.")],
    rate: Annotated[float, typer.Option(min=0.01, help="Requests per second offered.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long.")] = 10.0,
    surge: Annotated[float, typer.Option(min=1.0, help="Multiply the rate in the middle third.")] = 1.0,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates of a request, drawn from the catalogue.")] = 1_000,
    top: Annotated[int, typer.Option(min=1, help="Results asked for.")] = 10,
    deadline_ms: Annotated[float | None, typer.Option(help="The deadline of each request.")] = None,
    requests: Annotated[
        Path | None, typer.Option(metavar="F", help="Replay these requests (JSON, one a line) instead.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of users, candidates and arrival times.")] = 0,
    log: Log = None,
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write the figures as JSON (- for stdout).")] = None,
) -> None:
    """Send requests at a fixed rate, whether or not the answers keep up, and measure from the intended send time.

    Users come from the artifact's event log and candidates from its catalogue; a URL needs --requests.

    Example: depthrank bench demo/artifact --rate 50 --seconds 10 --json bench.json
    """
    from depthrank.cli.load import Arrivals, run_load
    from depthrank.cli.served_artifact import free_port, served_artifact

    arrivals = Arrivals(rate=rate, seconds=seconds, surge=surge, seed=seed)
    if target.startswith(("http://", "https://")):
        if requests is None:
            raise UsageProblem(f"{target}: give --requests F, since a server does not tell who its users are")
        figures = run_load(target, _read_requests(requests), arrivals, deadline_ms)
    else:
        from depthrank.cli.bench_requests import requests_of_artifact

        bodies = (
            requests_of_artifact(Path(target), log, candidates, top, seed)
            if requests is None
            else _read_requests(requests)
        )
        note(f"starting a server for {target}")
        with served_artifact(Path(target), log, free_port()) as server:
            figures = run_load(server.address, bodies, arrivals, deadline_ms)
    if json is not None:
        write_json(figures, json)
    if json is None or str(json) != "-":
        table(f"Open loop on {target}", ["figure", "value"], figures.items(), right=("value",))


def _read_requests(path: Path) -> list[dict[str, object]]:
    from msgspec import DecodeError
    from msgspec.json import decode

    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    try:
        bodies = [decode(line, type=dict[str, object]) for line in lines]
    except DecodeError as error:
        raise UsageProblem(f"{path}: expected one JSON request a line: {error}") from None
    if not bodies:
        raise UsageProblem(f"{path} holds no request")
    return bodies
