"""Which rankers of other libraries are shared, equal, and worth it?

    python benchmarks/foreign_models.py [--libraries deepctr_torch,torchfm,...] [--json F]

A library that is not installed is left out and said so. An environment for all of them, beside that of this project:

    python -m venv --system-site-packages /tmp/foreign
    printf '%s\\n' $PWD/.venv/lib/python3.11/site-packages $PWD/src > /tmp/foreign/lib/python3.11/site-packages/own.pth
    /tmp/foreign/bin/pip install --no-deps deepctr-torch torchfm recbole rtdl-revisiting-models tabm rtdl-num-embeddings
    /tmp/foreign/bin/pip install --no-deps einops einx loguru colorlog texttable tabulate thop h5py
    /tmp/foreign/bin/pip install --no-deps pytorch-widedeep tab-transformer-pytorch pytorch-tabnet fuxictr rectools
    /tmp/foreign/bin/pip install --no-deps mlgb rec-pangu funrec implicit
    /tmp/foreign/bin/pip install --no-deps hyper-connections discrete-continuous-embed-readout
    /tmp/foreign/bin/pip install transformers x-transformers

The libraries ``styles_...`` are our own: rankers written anew in the ways of public code (``foreign_styles`` and the
``foreign_style_...`` beside it). A JSON that exists keeps what this run did not try; ``code`` in every row is a digest
of the sources of ``depthrank.sharing`` and ``depthrank.kernels`` that it was found with.

Every model is built at its library's own defaults over the same made-up features: a few ids of the user and of the
item, a history of ten where the model takes one; its tables and matrices are drawn anew, so that scores vary. It is
shared, and compared with the original on draws that ``share`` did not see: one and three requests, 1 to 33 candidates,
and bound to a catalogue. ``equal`` within 1e-5 of max(1, max |b|) (four units where the model computes in half
precision), ``refused`` with the reason, ``different`` or ``failed`` otherwise: the last two are faults of ours.
``x_eager`` is the CPU time of the original on replicated inputs over that of the shared form for one request and
``--rows`` candidates, medians of interleaved calls; ``calls_run`` says which form that is, as ``share`` chose.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthrank import kernels, sharing
from depthrank.errors import SharingError
from depthrank.sharing import Refused, share
from depthrank.sharing.inputs import ModuleInputs, Sides, join_pairs, read_example, split_sides
from depthrank.sharing.verify import distance, draw_inputs, run_original, tensors_of, tolerance
from foreign_libraries import LIBRARIES
from foreign_tabular import import_library
from machine_facts import machine_facts, show_facts

DRAWS = ((1, 1), (1, 2), (1, 33), (3, 29))
REPEATS = 7


def judge(build: Callable[[], tuple[nn.Module, Any, Any]], rows: int) -> dict[str, Any]:
    """Build, share and compare one model: its outcome with a reason, and what sharing removes."""
    torch.manual_seed(0)
    start = time.perf_counter()
    try:
        module, example, request = build()
        draw_weights(module.eval())
        run_as_it_is(module, example)
    except Exception as error:  # noqa: BLE001 a library that cannot build its own model is no finding about ours
        return {"outcome": "not built", "why": first_line(error)}
    try:
        shared = share(module, example, request)
    except Refused as refusal:
        return {"outcome": "refused", "why": refusal.reason[:300], "source": refusal.source}
    except SharingError as error:
        return {"outcome": "failed", "why": first_line(error)}
    except Exception as error:  # noqa: BLE001 a traceback of ours is the finding
        return {"outcome": "failed", "why": f"traceback {first_line(error)}"}
    inputs = read_example(module, example)
    worst, compared = compare(module, shared, inputs, split_sides(inputs, request))
    report = shared.report
    at, bound = report.flops(1000), report.flops(1000, bound=True)
    found: dict[str, Any] = {
        "outcome": "different" if worst > tolerance(shared.program.graph) else "equal",
        "gap": worst,
        "draws": compared,
        "seconds": round(time.perf_counter() - start, 1),
        "written_out_bytes": sum(w.bytes_per_candidate for w in report.written_out),
        "flops_saved": ratio(at),
        "flops_saved_bound": ratio(bound),
        "calls_run": "shared" if report.pays else "original",
    }
    if rows:
        found |= times(module, shared, inputs, split_sides(inputs, request), rows)
    hoisted = [note for note in report.notes if "hoisting alone" in note or "own rounding" in note]
    return found | ({"why": hoisted[0][:300]} if hoisted else {})


def run_as_it_is(module: nn.Module, example: Any) -> None:
    """The module on its own example, which a library's model may not survive (sizes, parts that are not installed)."""
    args, kwargs = read_example(module, example).arguments(read_example(module, example).example)
    with torch.no_grad():
        module(*args, **kwargs)


def ratio(flops: dict[str, int]) -> float:
    """Products before over after; 1 where the model has none."""
    return round(max(flops["before"], 1) / max(flops["after"], 1), 2) if flops["before"] else 1.0


def times(module: nn.Module, shared: Any, inputs: ModuleInputs, sides: Sides, rows: int) -> dict[str, Any]:
    """CPU milliseconds of the original, shared and bound, for one request; how often the original's they are."""
    draw = draw_inputs(inputs, sides, 1, rows, seed=5)
    args, kwargs = inputs.arguments(join_pairs(sides, draw.request, draw.candidate, draw.request_of_candidate))
    bound, places = shared.bind(draw.candidate), torch.arange(rows)
    calls: dict[str, Callable[[], Any]] = {
        "eager": lambda: module(*args, **kwargs),
        "shared": lambda: shared(draw.request, draw.candidate),
        "bound": lambda: bound(draw.request, places),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for turn in range(REPEATS + 1):
            for name, call in calls.items():
                start = time.process_time()
                call()
                if turn:
                    taken[name].append(1e3 * (time.process_time() - start))
    ms = {name: statistics.median(v) for name, v in taken.items()}
    return {
        "eager_ms": round(ms["eager"], 3),
        "x_eager": round(ms["eager"] / ms["shared"], 2),
        "x_eager_bound": round(ms["eager"] / ms["bound"], 2),
    }


def draw_weights(module: nn.Module) -> None:
    """Tables and matrices far from zero, as trained ones are: many libraries start where every score is the same."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1 and weight.requires_grad:
                weight.normal_(0.0, weight.shape[-1] ** -0.5)


def compare(module: nn.Module, shared: Any, inputs: ModuleInputs, sides: Sides) -> tuple[float, int]:
    """The worst distance over fresh draws, shared and bound, and how many the original could score.

    The original scores one candidate as one of two: a bare ``squeeze()`` makes other shapes of a batch of one.
    """
    worst, compared = 0.0, 0
    many = draw_inputs(inputs, sides, 1, 31, seed=999)
    lead = tuple(t.shape[:1] == (31,) for t in tensors_of(shared.score(shared.encode(many.request), many.candidate)))
    for place, (requests, candidates) in enumerate(DRAWS):
        draw = draw_inputs(inputs, sides, requests, candidates, seed=1000 + place)
        try:
            truth = run_original(module, inputs, sides, draw, lead)
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue  # some models cannot score few rows
        index = None if requests == 1 else draw.request_of_candidate
        if shared.report.ill_conditioned:  # what calls run is the original
            found = [shared(draw.request, draw.candidate, index)]
        else:
            found = [shared.score(shared.encode(draw.request), draw.candidate, index)]
        if requests == 1 and candidates > 1 and not shared.report.ill_conditioned:
            found.append(shared.bind(draw.candidate)(draw.request, torch.arange(candidates)))
        for ours in found:
            worst = max([worst, *(distance(a, b) for a, b in zip(tensors_of(ours), truth, strict=True))])
        compared += 1
    return worst, compared


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]


def line(name: str, found: dict[str, Any]) -> str:
    if found["outcome"] in ("equal", "different"):
        saved = f"{found['flops_saved']}x, bound {found['flops_saved_bound']}x"
        text = f"gap {found['gap']:.0e}, {saved}, {found['seconds']} s"
        if "x_eager" in found:
            text += f", {found['eager_ms']} ms eager / {found['x_eager']} / bound {found['x_eager_bound']}"
        text += "" if found["calls_run"] == "shared" else " (calls run the original)"
        return f"  {name:40} {found['outcome']:9} {text} {found.get('why', '')}"
    return f"  {name:40} {found['outcome']:9} {found['why']} {found.get('source', '')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", default=",".join(LIBRARIES))
    parser.add_argument("--models", default="", help="only models whose names hold this")
    parser.add_argument("--rows", type=int, default=1000, help="candidates to time at; 0 leaves times out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--missing", action="store_true", help="only models that the JSON does not have of this code")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    about = machine_facts("depthrank") | {"code": code_digest()}
    show_facts(about)
    for name in args.libraries.split(","):
        try:
            library = import_library("foreign_styles" if name.startswith("styles_") else name)
        except Exception as error:  # noqa: BLE001 a library that is absent, or that cannot be imported here
            print(f"{name}: not imported ({first_line(error)})", flush=True)
            continue
        print(f"{name} {getattr(library, '__version__', '')}", flush=True)
        found = {}
        for model, build in LIBRARIES[name]():
            if args.models.lower() not in model.lower():
                continue
            if args.missing and model in found_before(args.json, name, about["code"]):
                continue
            found[model] = judge(build, args.rows) | {"code": about["code"]}
            print(line(model, found[model]), flush=True)
            if args.json:
                keep(args.json, name, found, about)
        print(f"  {name}: {counts(found)}", flush=True)


def code_digest() -> str:
    """Which compiler a row was found with: a digest of the sources of ``depthrank.sharing`` and its kernels."""
    rooms = [Path(sharing.__file__).parent, Path(kernels.__file__).parent]
    sources = [p for room in rooms for pattern in ("*.py", "*.cpp", "*.h") for p in sorted(room.rglob(pattern))]
    text = b"".join(p.relative_to(rooms[0].parent).as_posix().encode() + p.read_bytes() for p in sources)
    return hashlib.sha256(text).hexdigest()[:12]


def counts(models: dict[str, Any]) -> dict[str, int]:
    return dict(Counter(m["outcome"] for m in models.values()))


def found_before(path: Path, library: str, code: str) -> set[str]:
    """The models of a library that the file has of this code."""
    libraries = json.loads(path.read_text())["libraries"] if path.exists() else {}
    models = libraries.get(library, {}).get("models", {})
    return {name for name, found in models.items() if found.get("code") == code}


def keep(path: Path, library: str, found: dict[str, Any], about: dict[str, Any]) -> None:
    """Write what was found of a library beside what the file has of others, and of its other models."""
    known = json.loads(path.read_text()) if path.exists() else {}
    libraries = known.get("libraries", {})
    models = libraries.get(library, {}).get("models", {}) | found
    libraries[library] = {"machine": about, "counts": counts(models), "models": models}
    path.write_text(json.dumps({"libraries": libraries}, indent=1))


if __name__ == "__main__":
    main()
