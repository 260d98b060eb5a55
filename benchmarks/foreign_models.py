"""Which rankers of other libraries are shared, equal, and worth it?

    python benchmarks/foreign_models.py [--libraries deepctr_torch,torchfm,...] [--json F]

A library that is not installed is left out and said so. An environment for all of them, beside that of this project:

    python -m venv --system-site-packages /tmp/foreign
    printf '%s\\n' $PWD/.venv/lib/python3.11/site-packages $PWD/src > /tmp/foreign/lib/python3.11/site-packages/own.pth
    /tmp/foreign/bin/pip install --no-deps deepctr-torch torchfm recbole rtdl-revisiting-models tabm rtdl-num-embeddings
    /tmp/foreign/bin/pip install --no-deps einops einx loguru colorlog texttable tabulate thop h5py
    /tmp/foreign/bin/pip install transformers x-transformers

Every model is built at its library's own defaults over the same made-up features: a few ids of the user and of the
item, a history of ten where the model takes one; its tables and matrices are drawn anew, so that scores vary. It is
shared, and compared with the original on draws that ``share`` did not see: one and three requests, 1 to 33 candidates,
and bound to a catalogue. ``equal`` within 1e-5 of max(1, max |b|),
``refused`` with the reason, ``different`` or ``failed`` otherwise: the last two are faults of ours.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from depthrank.errors import SharingError
from depthrank.sharing import Refused, share
from depthrank.sharing.inputs import ModuleInputs, Sides, join_pairs, read_example, split_sides
from depthrank.sharing.verify import distance, draw_inputs
from foreign_libraries import LIBRARIES
from machine_facts import machine_facts, show_facts

DRAWS = ((1, 1), (1, 2), (1, 33), (3, 29))


def judge(build: Callable[[], tuple[nn.Module, Any, Any]]) -> dict[str, Any]:
    """Build, share and compare one model: its outcome with a reason, and what sharing removes."""
    torch.manual_seed(0)
    start = time.perf_counter()
    try:
        module, example, request = build()
        draw_weights(module.eval())
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
        "outcome": "different" if worst > 1e-5 else "equal",
        "gap": worst,
        "draws": compared,
        "seconds": round(time.perf_counter() - start, 1),
        "written_out_bytes": sum(w.bytes_per_candidate for w in report.written_out),
        "flops_saved": round(at["before"] / max(at["after"], 1), 2),
        "flops_saved_bound": round(bound["before"] / max(bound["after"], 1), 2),
    }
    hoisted = [note for note in report.notes if "hoisting alone" in note]
    return found | ({"why": hoisted[0][:300]} if hoisted else {})


def draw_weights(module: nn.Module) -> None:
    """Tables and matrices far from zero, as trained ones are: many libraries start where every score is the same."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1 and weight.requires_grad:
                weight.normal_(0.0, weight.shape[-1] ** -0.5)


def compare(module: nn.Module, shared: Any, inputs: ModuleInputs, sides: Sides) -> tuple[float, int]:
    """The worst distance over fresh draws, shared and bound, and how many the original could score."""
    worst, compared = 0.0, 0
    for place, (requests, candidates) in enumerate(DRAWS):
        draw = draw_inputs(inputs, sides, requests, candidates, seed=1000 + place)
        args, kwargs = inputs.arguments(join_pairs(sides, draw.request, draw.candidate, draw.request_of_candidate))
        try:
            with torch.no_grad():
                expected = module(*args, **kwargs)
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue  # many models cannot score one row
        index = None if requests == 1 else draw.request_of_candidate
        found = [shared.score(shared.encode(draw.request), draw.candidate, index)]
        if requests == 1 and candidates > 1:
            found.append(shared.bind(draw.candidate)(draw.request, torch.arange(candidates)))
        truth = [t for t in tree_leaves(expected) if isinstance(t, Tensor)]
        for ours in found:
            own = [t for t in tree_leaves(ours) if isinstance(t, Tensor)]
            worst = max([worst, *(distance(a, b) for a, b in zip(own, truth, strict=True))])
        compared += 1
    return worst, compared


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]


def line(name: str, found: dict[str, Any]) -> str:
    if found["outcome"] in ("equal", "different"):
        saved = f"{found['flops_saved']}x, bound {found['flops_saved_bound']}x"
        text = f"gap {found['gap']:.0e}, {saved}, {found['seconds']} s"
        return f"  {name:40} {found['outcome']:9} {text} {found.get('why', '')}"
    return f"  {name:40} {found['outcome']:9} {found['why']} {found.get('source', '')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", default=",".join(LIBRARIES))
    parser.add_argument("--models", default="", help="only models whose names hold this")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    about = machine_facts("depthrank")
    show_facts(about)
    results: dict[str, Any] = {}
    if args.json and args.json.exists():
        results = json.loads(args.json.read_text())["libraries"]
    for name in args.libraries.split(","):
        try:
            library = importlib.import_module(name)
        except ImportError as error:
            print(f"{name}: not installed ({first_line(error)})", flush=True)
            continue
        print(f"{name} {getattr(library, '__version__', '')}", flush=True)
        found = {}
        for model, build in LIBRARIES[name]():
            if args.models.lower() not in model.lower():
                continue
            found[model] = judge(build)
            print(line(model, found[model]), flush=True)
        counts = Counter(f["outcome"] for f in found.values())
        print(f"  {name}: {dict(counts)}", flush=True)
        results[name] = {"counts": dict(counts), "models": found}
        if args.json:
            args.json.write_text(json.dumps({"machine": about, "libraries": results}, indent=1))


if __name__ == "__main__":
    main()
