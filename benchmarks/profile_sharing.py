"""Where does the time of a shared model go? Every kernel of its request and candidate part, the slowest first.

    python benchmarks/profile_sharing.py AutoInt [--candidates 1000] [--bound] [--top 20] [--threads 1]

Kernels are timed one by one by an interpreter, so launches cost more here than in a call; the sum is printed beside
the time of real calls. GFLOP/s and GB/s say which kernels run far from what the machine gives.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from counted_work import MORE_FORMULAS, CountedBytes
from depthrank.cli.threads import keep_freed_memory
from machine_facts import median_seconds

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sharing"))
import zoo


class Timed(fx.Interpreter):
    """Times every node of a part; ``counting`` takes FLOPs and bytes instead."""

    def __init__(self, part: fx.GraphModule) -> None:
        super().__init__(part)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.work: dict[str, tuple[int, int]] = {}
        self.shapes: dict[str, str] = {}
        self.counting = False

    def run_node(self, n: fx.Node) -> Any:
        if self.counting:
            with CountedBytes() as moved, FlopCounterMode(display=False, custom_mapping=MORE_FORMULAS) as flops:
                result = super().run_node(n)
            self.work[n.name] = (flops.get_total_flops(), moved.moved)
            self.shapes[n.name] = " ".join(str(list(t.shape)) for t in tree_leaves(result) if isinstance(t, Tensor))
            return result
        start = time.perf_counter()
        result = super().run_node(n)
        self.seconds[n.name].append(time.perf_counter() - start)
        return result


def profile(part: fx.GraphModule, arguments: list[Any], rounds: int, top: int) -> None:
    timed = Timed(part)
    timed.counting = True
    timed.run(*arguments)
    timed.counting = False
    for _ in range(rounds):
        timed.run(*arguments)
    rows = [(statistics.median(s[1:]), name) for name, s in timed.seconds.items()]
    total = sum(s for s, _ in rows)
    whole = median_seconds(lambda: part(*arguments))
    print(f"{len(rows)} nodes, {1e3 * total:.2f} ms one by one; called whole {1e3 * whole:.2f} ms")
    by_kind: dict[str, list[float]] = defaultdict(list)
    nodes = {n.name: n for n in part.graph.nodes}
    for seconds, name in rows:
        by_kind[str(nodes[name].target).split(" at ")[0]].append(seconds)
    for kind, spent in sorted(by_kind.items(), key=lambda x: -sum(x[1]))[:12]:
        print(f"  {1e3 * sum(spent):8.3f} ms {len(spent):4} x {kind}")
    for seconds, name in sorted(rows, reverse=True)[:top]:
        flops, moved = timed.work[name]
        speed = f"{flops / seconds / 1e9:6.1f} GFLOP/s {moved / seconds / 1e9:6.1f} GB/s"
        given = " ".join(timed.shapes.get(a.name, "") for a in nodes[name].all_input_nodes)
        print(f"  {1e6 * seconds:8.0f} us {speed} {name:28} {given} -> {timed.shapes[name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--bound", action="store_true")
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--code", action="store_true", help="print the candidate part's code")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    from depthrank.sharing import share

    model = zoo.make(args.model, zoo.FULL)
    shared: Any = share(model.build(), model.example(), request_inputs=model.request_inputs)
    inputs = model.draw(4, 1, args.candidates)
    candidate, rows, tables = inputs.candidate, None, ()
    if args.bound:
        shared = shared.bind({n: inputs.candidate[n] for n in model.item_names})
        candidate = {n: inputs.candidate[n] for n in shared.other_names}
        rows, tables = torch.arange(args.candidates), shared.tables
        print("tables", [list(t.shape) for t in tables])
    parts = shared.parts
    with torch.no_grad():
        requests = [inputs.request[n] for n in parts.request_names]
        print("request part:", end=" ")
        profile(parts.request_module, requests, args.rounds, min(args.top, 5))
        state = parts.encode(inputs.request)
        like = next(iter(inputs.candidate.values()))
        own = [candidate[n] for n in parts.candidate_names]
        print("candidate part:", end=" ")
        part = parts.candidates_module(True)
        profile(part, [*own, *state, *tables, *([] if rows is None else [rows]), like], args.rounds, args.top)
        if args.code:
            print(part.code)


if __name__ == "__main__":
    main()
