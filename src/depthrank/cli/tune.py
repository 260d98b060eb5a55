"""``depthrank tune``: the number format of each layer, measured on this machine within limits of accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from depthrank.cli.options import Artifact, Log, SpecFile, Threads
from depthrank.cli.terminal import UsageProblem, note, say, table, write_json
from depthrank.cli.threads import set_torch_threads

_TIMES = ("fp32_ms", "served_ms")


def tune(
    artifact: Artifact,
    spec: SpecFile,
    log: Log = None,
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write the figures as JSON (- for stdout).")] = None,
    ne_change: Annotated[float, typer.Option(min=0, help="NE may be worse by this fraction of it.")] = 0.0002,
    overlap: Annotated[float, typer.Option(min=0, max=1, help="Least top-10 overlap with fp32.")] = 0.97,
    kept_gain: Annotated[float, typer.Option(min=0, max=1, help="Least kept gain of full depth in fp32.")] = 0.99,
    requests: Annotated[int, typer.Option(min=8, help="Validation requests to fit on, and as many to verify.")] = 128,
    candidates: Annotated[int | None, typer.Option(min=1, help="Candidates of a request. Default: as usual.")] = None,
    plan: Annotated[
        list[str] | None, typer.Option(metavar="W,W,..", help="A plan to be fast at. Default: the artifact's ladder.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="For judging layers alone, at most.")] = 120.0,
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Try levels as compiled code too: half a minute each.")
    ] = True,
    seal: Annotated[bool, typer.Option("--seal", help="Only accept this machine's policy as you edited it.")] = False,
    threads: Threads = None,
) -> None:
    """Time every layer in every number format here, and choose the fastest that keep to the limits.

    Writes policies/<hardware fingerprint>.json into the artifact; serving uses it from the next load on.
    Example: depthrank tune demo/artifact demo/ranking.yaml --json tune.json
    """
    set_torch_threads(threads or 1)
    if seal:
        note(f"sealed: {_sealed(artifact)}")
        return
    from depthrank.evaluate.tune_artifact import tune as tune_artifact
    from depthrank.training.judge_precision import Limits
    from depthrank.training.tuning_requests import Settings

    settings = Settings(
        limits=Limits(ne_change, overlap, kept_gain),
        requests=requests,
        candidates=candidates,
        plans=tuple(_widths(text) for text in plan or ()),
        judge_seconds=seconds,
        compile=compile,
    )
    figures = tune_artifact(artifact, spec, log, settings, on_phase=note).figures
    if json is None or str(json) != "-":
        _show(figures)
    if json is not None:
        write_json(figures, json)


def _sealed(artifact: Path) -> Path:
    from depthrank.artifact import check_policy, load_artifact
    from depthrank.precision import examine_hardware, in_formats, read_policy
    from depthrank.precision.policy import seal_policy

    fingerprint = examine_hardware().fingerprint
    path, loaded = seal_policy(artifact, fingerprint), load_artifact(artifact)
    policy = read_policy(artifact, fingerprint)
    assert policy is not None, "sealed above"
    check_policy(policy, loaded)
    in_formats(loaded.model, policy.choices)
    return path


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise UsageProblem(f"--plan {text!r}: expected widths by level such as 2000,256,64") from None


def _show(figures: dict[str, Any]) -> None:
    layers = [
        [row["layer"], row["format"], f"{row['share_of_fp32']:.1%}", f"{row['speedup']:.2f}"]
        for row in figures["layers"]
    ]
    names = ["layer", "format", "share", "faster"]
    table("Layers, by their share of the time in fp32", names, layers, right=names[2:])
    plans = [
        [", ".join(map(str, p["widths"])), "warm" if p["warm"] else "cold", *(f"{p[k]:.1f}" for k in _TIMES)]
        for p in figures["plans"]
    ]
    table("Plans, in milliseconds", ["plan", "state", "fp32", "now"], plans, right=("fp32", "now"))
    say(
        f"{figures['speedup_vs_fp32']:.2f} times as fast as fp32 (its layers alone: "
        f"{figures['layers_predicted_speedup']:.2f}), MFU {figures['mfu']:.0%}; NE {figures['ne_change']:+.4%}, top-10 "
        f"overlap {figures['top10_overlap']:.1%}, kept gain {figures['kept_gain']:.2%} on {figures['verified_on']} "
        "requests that nothing was fitted on"
    )
    if figures["compiled"]:
        say(_compiled(figures["compiled"]))


def _compiled(levels: dict[str, dict[str, Any]]) -> str:
    """Which levels run as compiled code, and why the others do not."""
    told = [
        f"level {level}: " + ("compiled" if row["kept"] else row.get("reason", "as fast without being compiled"))
        for level, row in levels.items()
    ]
    return "; ".join(told)
