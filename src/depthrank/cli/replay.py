"""``depthrank replay``: a logged decision, made again; and the whole ranking, where the event log is at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from depthrank.cli.terminal import UsageProblem, note, say
from depthrank.errors import ArtifactError, DepthrankError

if TYPE_CHECKING:
    from depthrank.engine.replay import Replayed


class ReplayError(DepthrankError):
    """A decision or a ranking made again came out otherwise."""


def replay(
    record: Annotated[
        str,
        typer.Argument(
            metavar="RECORD",
            help="A decision record, an answer of rank --explain, or a server's decision log (file or folder).",
        ),
    ],
    artifact: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The artifact. Default: the one that the record names, or lies beside."),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option("--request-id", metavar="ID", help="Which record of a decision log; default: the newest."),
    ] = None,
    log: Annotated[
        str | None, typer.Option(metavar="URL", help="The event log: the whole ranking is made again and compared.")
    ] = None,
    deltas: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The deltas of a model whose id ends in +N.")
    ] = None,
) -> None:
    """Decide again how deep a request goes, from what was logged, and check that it comes out the same.

    Example: depthrank rank demo/artifact --request r.json --explain > answer.json; depthrank replay answer.json
    """
    found = _found(record, request_id)
    if isinstance(found, dict) and "order" in found:
        _replay_ranking(found, artifact or _beside(record, found), log, deltas)
        return
    if log is not None:
        raise UsageProblem("--log is for records of a server's decision log; this one holds the decision alone")
    _replay_decision(found, artifact)


def _found(record: str, request_id: str | None) -> object:
    """The record asked for."""
    from depthrank.engine.replay import record_in
    from depthrank.server.decisions.decision_files import read_records

    path = Path(record)
    if record != "-" and (path.is_dir() or path.suffix == ".jsonl"):
        records = [r for r in read_records(path) if request_id in (None, r.get("request_id"))]
        if not records:
            raise ReplayError(f"{record} holds no record" + (f" of request {request_id}" if request_id else ""))
        return records[-1]
    if request_id is not None:
        raise UsageProblem("--request-id is for a decision log: a folder, or a file that ends in .jsonl")
    return record_in(sys.stdin.buffer.read() if record == "-" else path.read_bytes())


def _beside(record: str, found: dict[str, Any]) -> Path:
    """The artifact of a record's model beside the folder of its decision log."""
    from depthrank.artifact.manifest import read_manifest

    folder = Path(record).absolute() if Path(record).is_dir() else Path(record).absolute().parent
    for manifest in sorted(folder.parent.glob("*/manifest.json")):
        try:
            if read_manifest(manifest.parent).model_id == str(found.get("model")).partition("+")[0]:
                return manifest.parent
        except ArtifactError as error:
            note(f"passed over: {error}")
    raise UsageProblem(f"no artifact of model {found.get('model')} lies beside {folder}: give --artifact DIR")


def _replay_ranking(found: dict[str, Any], artifact: Path, log: str | None, deltas: Path | None) -> None:
    if found.get("decision") is not None:
        _replay_decision(found["decision"], artifact)
    else:
        say("its mode fixed its plan: there is no decision to make again")
    if log is None:
        note("give --log URL to rank it again too")
        return
    from depthrank.engine.replay_ranking import rank_again
    from depthrank.events import open_log

    _set_threads(found)
    with open_log(log, read_only=True) as opened:
        again = rank_again(found, artifact, opened, deltas)
    for words in again.differing:
        say(f"not as recorded: {words}")
    if not again.agrees:
        items = [(logged[0], now[0]) for logged, now in zip(found["order"], again.order, strict=False)]
        at = next((i for i, (logged, now) in enumerate(items) if logged != now), None)
        where = f"values differ by up to {again.largest_difference:.2g}" if at is None else f"from place {at + 1} on"
        raise ReplayError(f"the ranking comes out otherwise ({where})")
    say("the same ranking, bit for bit" if again.exact else f"the same ranking within {again.largest_difference:.1g}")


def _set_threads(found: dict[str, Any]) -> None:
    """Products over another number of threads round otherwise."""
    import torch

    hardware = found.get("hardware")
    threads = hardware.get("threads") if isinstance(hardware, dict) else None
    if isinstance(threads, int) and 1 <= threads <= 256:
        torch.set_num_threads(threads)


def _replay_decision(found: object, artifact: Path | None) -> None:
    from depthrank.artifact import load_artifact, with_precision
    from depthrank.engine.replay import replay as decide_again

    named = found.get("artifact") if isinstance(found, dict) else None
    if artifact is None and not isinstance(named, str):
        raise UsageProblem("the record names no artifact: give --artifact DIR")
    path = artifact or Path(str(named))
    loaded = load_artifact(path)
    if loaded.adaptive is None:
        raise ReplayError(f"{path} has no adaptive policy: no decision of it can be replayed")
    replayed = decide_again(loaded.adaptive, found)
    tuned = with_precision(loaded, path).adaptive if replayed.differing else None
    if tuned is not None and tuned is not loaded.adaptive:  # the ladder that `tune` fitted for this machine
        replayed = decide_again(tuned, found)
    if replayed.differing:
        raise ReplayError(_difference(replayed))
    for words in replayed.again.reasons:
        say(words)
    say("the same decision")


def _difference(replayed: Replayed) -> str:
    again = replayed.again.to_plain()
    told = [f"{name}: logged {replayed.logged[name]!r:.200}, now {again[name]!r:.200}" for name in replayed.differing]
    return "\n".join(["the decision comes out otherwise:", *told])
