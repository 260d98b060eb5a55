"""``depthrank bench``: an open-loop load on a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from depthrank.cli.options import Log
from depthrank.cli.terminal import UsageProblem, note, say, table, write_json

if TYPE_CHECKING:
    from depthrank.cli.load import Load, Requests, Target
    from depthrank.cli.load.run import Measured

TOKEN_VARIABLE = "DEPTHRANK_TOKEN"


def bench(
    target: Annotated[str, typer.Argument(metavar="DIR|URL", help="An artifact (served for the run) or a server.")],
    rate: Annotated[float, typer.Option(min=0.01, help="Requests per second offered.")] = 20.0,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="How long, warm-up excluded; with --ramp, of each step.")
    ] = 10.0,
    surge: Annotated[float, typer.Option(metavar="X", min=1.0, help="Multiply the rate in the middle third.")] = 1.0,
    ramp: Annotated[
        bool, typer.Option("--ramp", help="Find capacity: raise the rate from --rate to the knee.")
    ] = False,
    steps: Annotated[
        str | None, typer.Option(metavar="X,X", help="One load each at these multiples of --rate, such as 0.5,1,2,4.")
    ] = None,
    candidates: Annotated[
        str, typer.Option(metavar="N|all", help="Candidates of a request, drawn from the catalogue.")
    ] = "1000",
    top: Annotated[int, typer.Option(min=1, help="Results asked for.")] = 10,
    mode: Annotated[str | None, typer.Option(help="adaptive, full or router (default: the server's).")] = None,
    zipf: Annotated[float, typer.Option(min=0, help="Exponent of the users' popularity; 0: all alike.")] = 1.0,
    deadline_ms: Annotated[float | None, typer.Option(min=0, help="The deadline that each request carries.")] = None,
    limit_ms: Annotated[
        float | None, typer.Option(min=0, help="An answer within this is good (default: the deadline).")
    ] = None,
    requests: Annotated[
        Path | None, typer.Option(metavar="F", help="Send these requests (JSON, one a line) instead.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="F", help='Send at recorded times: {"at_ms": .., "request": {..}} a line.')
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="Play the trace so much faster.")] = 1.0,
    warm_up: Annotated[float, typer.Option(min=0, metavar="S", help="Seconds of load before what is measured.")] = 1.0,
    connections: Annotated[int, typer.Option(min=1, help="Most connections at once.")] = 1_024,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="S", help="When an answer is given up.")] = 60.0,
    token: Annotated[str | None, typer.Option(envvar=TOKEN_VARIABLE, help="Sent as Authorization: Bearer.")] = None,
    certificates: Annotated[
        str | None, typer.Option(metavar="F", help="Certificates to trust, for https with one of your own.")
    ] = None,
    pin: Annotated[
        bool, typer.Option("--pin", help="DIR: the client gets the last core, the server the others.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="DIR: engine processes of the server.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of users, candidates and arrival times.")] = 0,
    log: Log = None,
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write the figures as JSON (- for stdout).")] = None,
    html: Annotated[Path | None, typer.Option(metavar="F", help="Write a page with plots.")] = None,
) -> None:
    """Send requests at set times, whether or not the answers keep up, and measure from the intended send time.

    Users and candidates come from the artifact, or from the server itself where it is ours and we are its operator.

    Example: depthrank bench demo/artifact --rate 50 --seconds 10 --surge 4 --json bench.json
    """
    from depthrank.cli.bench_requests import (
        Asked,
        requests_of_artifact,
        requests_of_file,
        requests_of_server,
        trace_of_file,
    )
    from depthrank.cli.load import Load, Target

    if sum((ramp, steps is not None, trace is not None)) > 1:
        raise UsageProblem("--ramp, --steps and --trace each say when requests leave: give one of them")
    load = Load(deadline_ms, limit_ms, 0.0 if trace else warm_up, connections, timeout)
    asked = Asked(_candidates(candidates), top, mode, seed, zipf)
    times = None
    with _server(target, log, workers, pin) as (address, cpu_s):
        aim = Target.of(address, token=token, certificates=certificates)
        if trace is not None:
            bodies, times = trace_of_file(trace, speed)
        elif requests is not None:
            bodies = requests_of_file(requests)
        elif address == target:
            bodies = requests_of_server(aim, asked)
        else:
            bodies = requests_of_artifact(Path(target), log, asked)
        note(bodies.said)
        run = _Runs(aim, bodies, load, cpu_s, seconds, surge, seed)
        if ramp:
            figures = run.to_the_knee(rate)
        elif steps is not None:
            figures = run.in_steps(rate, _multiples(steps))
        else:
            figures = run.once(rate, times)
    figures |= {"target": target, "requests": bodies.said, "seed": seed}
    if json is not None:
        write_json(figures, json)
    if html is not None:
        run.write_page(html, target, bodies.said)
    if json is None or str(json) != "-":
        _show(target, figures)


class _Runs:
    """The loads of one command."""

    def __init__(
        self,
        target: Target,
        requests: Requests,
        load: Load,
        cpu_s: Callable[[], float | None] | None,
        seconds: float,
        surge: float,
        seed: int,
    ) -> None:
        self._target, self._requests, self._load, self._cpu_s = target, requests, load, cpu_s
        self._seconds, self._surge, self._seed = seconds, surge, seed
        self._done: list[tuple[float, Measured]] = []

    def once(self, rate: float, times: Any = None) -> dict[str, Any]:
        """One load, at a rate or at given times."""
        from depthrank.cli.load import Arrivals, run_load

        arrivals = Arrivals(rate, self._seconds, self._surge, self._seed + len(self._done)) if times is None else times
        measured = run_load(self._target, self._requests, arrivals, self._load, self._cpu_s)
        self._done.append((rate, measured))
        figures = measured.figures()
        note(f"{rate:,.1f}/s: goodput {figures['goodput_rps']:,.1f}/s, p99 {figures['p99_ms']:,.1f} ms")
        return figures

    def in_steps(self, rate: float, multiples: list[float]) -> dict[str, Any]:
        """A load at each multiple of the rate; the figures are those of the last."""
        found = [{"step": x, **self.once(rate * x)} for x in multiples]
        return {**found[-1], "steps": found}

    def to_the_knee(self, rate: float) -> dict[str, Any]:
        """Loads up to the knee; the figures are those of the highest that held."""
        from depthrank.cli.load import find_knee

        best, found = find_knee(self.once, rate)
        if best is None:
            lowest = found[0]
            reached = f"goodput {lowest['goodput_rps']:.3g}, p99 {lowest['p99_ms']:.3g} ms"
            raise UsageProblem(
                f"the server kept up with none of the rates, not even {lowest['rate']:.3g} a second ({reached}): "
                "start lower with --rate, or allow a longer --limit-ms"
            )
        return {"capacity_rps": best["goodput_rps"], **best, "steps": found}

    def write_page(self, path: Path, target: str, said: str) -> None:
        """The page with plots."""
        from depthrank.cli.load.html_report import Shown, render_load

        ordered = sorted(self._done, key=lambda pair: pair[0])
        shown = [Shown(f"{rate:,.4g}/s", measured.figures(), measured.outcomes) for rate, measured in ordered]
        path.write_text(render_load(f"Load on {target}", {"requests": said}, shown), encoding="utf-8")
        note(f"wrote {path}")


@contextmanager
def _server(
    target: str, log: str | None, workers: int, pin: bool
) -> Iterator[tuple[str, Callable[[], float | None] | None]]:
    """An address, and how to read the server's CPU seconds; an artifact is served until the end."""
    if target.startswith(("http://", "https://")):
        yield target, None
        return
    from depthrank.cli.served_artifact import free_port, served_artifact
    from depthrank.server.status.process_tree import cpu_s_of_tree

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    server_cores = set(cores[:-1]) if pin and len(cores) > 1 else None
    note(f"starting a server for {target}")
    with served_artifact(Path(target), log, free_port(), workers=workers, cores=server_cores) as server:
        if server_cores is not None:
            os.sched_setaffinity(0, {cores[-1]})
        try:
            yield server.address, lambda: cpu_s_of_tree(server.process.pid)
        finally:
            if server_cores is not None:
                os.sched_setaffinity(0, set(cores))


def _candidates(text: str) -> int | str:
    if text == "all":
        return text
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise UsageProblem(f"--candidates {text}: expected a number above 0, or all")


def _multiples(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise UsageProblem(f"--steps {text}: expected multiples of the rate such as 0.5,1,2,4")
    return found


def _show(target: str, figures: dict[str, Any]) -> None:
    plain = {k: v for k, v in figures.items() if k not in ("steps", "warnings") and v not in (None, {}, [])}
    steps = figures.get("steps", [])
    if steps:
        columns = ("offered_rps", "goodput_rps", "p50_ms", "p99_ms", "errors", "degraded", "client_lag_p99_ms")
        table(f"Steps on {target}", list(columns), [[s[c] for c in columns] for s in steps], right=columns)
    table(f"Open loop on {target}", ["figure", "value"], plain.items(), right=("value",))
    for warning in figures["warnings"]:
        say(f"warning: {warning}")
