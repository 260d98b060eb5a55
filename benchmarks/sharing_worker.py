"""One model of the zoo in a process of its own: every variant timed in turn, checked, and held against its floor.

Inside the process all variants are called in turn, round after round, and medians taken. One thread is timed by the CPU
time that it used, so that other processes disturb little; two threads by the clock. Pair-by-pair rivals get their
replicated inputs for nothing: the copy is not timed.

The floor is the time of the work that is left in ``ours``: its matrix-product FLOPs at the rate measured for a square
product of N rows, plus the bytes that its kernels read and write at the bandwidth measured for a copy. The cap is the
ratio of matrix-product FLOPs before and after: what exactness allows.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from counted_work import CountedBytes
from depthrank.cli.threads import keep_freed_memory
from machine_facts import COPIED_FLOATS, torch_facts
from sharing_table import RIVALS
from sharing_variants import AHEAD, BRIEF, COMPILED, OURS, Call, Contestants, bind_call, oracle, reason, zoo


def moved_bytes(call: Call) -> int:
    with torch.no_grad(), CountedBytes() as counter:
        call()
    return counter.moved


def clock() -> float:
    """Seconds of CPU of this thread where it works alone, of the wall where there are more."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def fastest_seconds(call: Call, rounds: int = 12) -> float:
    """The best of some calls, after one to warm up."""
    call()
    times = []
    for _ in range(rounds):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


def matmul_rate(num_rows: int) -> float:
    """FLOP/s of a linear of N rows at its better width: 512 or 1024."""
    rates = []
    for width in (512, 1024):
        x, weight = torch.randn(num_rows, width), torch.randn(width, width)
        rates.append(2 * num_rows * width**2 / fastest_seconds(bind_call(nn.functional.linear, x, weight)))
    return max(rates)


def copy_rate() -> float:
    """Bytes a second, read plus written, of a copy that no cache holds."""
    source = torch.randn(COPIED_FLOATS)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / fastest_seconds(bind_call(target.copy_, source))


def resident_bytes(key: str) -> int:
    """VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def peak_bytes(call: Call) -> int:
    """How far one call raises resident memory, all memory that was freed before it given back first."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    call()
    return max(0, resident_bytes("VmHWM") - before)


def timed(calls: Mapping[str, Call], seconds: float, max_rounds: int = 200) -> dict[str, float]:
    """Median seconds of every call, all interleaved; a call that is slow in its first round takes part in fewer."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    share_of_time = seconds / max(len(calls), 1)
    for _ in range(max_rounds):
        for name, call in calls.items():
            if len(times[name]) >= 2 and spent[name] > share_of_time:
                continue
            start = clock()
            call()
            times[name].append(clock() - start)
            spent[name] += times[name][-1]
        if all(spent[name] > share_of_time for name in calls):
            break
    return {name: statistics.median(values) for name, values in times.items()}


def measure_model(name: str, args: argparse.Namespace, save: Callable[[list[dict[str, Any]]], None]) -> None:
    """All variants of one model at every number of threads and N; ``save`` keeps what a time-out would lose."""
    model = zoo.make(name, zoo.SMALL if args.small else zoo.FULL)
    field = Contestants(model, args.threads[0], wanted_variants(args))
    results: list[dict[str, Any]] = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        if threads != field.threads:
            field.threads = threads
            field.attempt("ort", field.build_ort)
        results.append({
            "model": name, "threads": threads, "torch": short_facts(), "encoder": model.user_side_is_encoder,
            "brief": args.brief,
            "failures": field.failures, "build_seconds": field.build_seconds, "first_call_seconds": {}, "sizes": {},
        })  # fmt: skip
        measure_sizes(model, field, args, results[-1], lambda: save(results))


def wanted_variants(args: argparse.Namespace) -> tuple[str, ...]:
    """The variants of a run, in the order in which they are built."""
    variants = BRIEF if args.brief == "plain" else COMPILED if args.brief == "compiled" else (*RIVALS, *OURS)
    wanted = tuple(v for v in variants if v not in AHEAD and not (args.no_compile and "compile" in v))
    wanted += AHEAD if args.ahead else ()
    return tuple(v for v in wanted if not args.variants or v in args.variants.split(","))


def measure_sizes(
    model: zoo.ZooModel, field: Contestants, args: argparse.Namespace, result: dict[str, Any], save: Callable[[], None]
) -> None:
    rate_of_copy = copy_rate()
    for num_candidates in args.candidates:
        inputs = field.inputs(num_candidates)
        truth = oracle.pairwise(model, field.eager, inputs)
        calls = ready_calls(field, inputs, truth, result)
        row: dict[str, Any] = {"median_ms": {k: 1e3 * v for k, v in timed(calls, args.seconds).items()}}
        row |= floors(model, field, inputs, calls, rate_of_copy)
        row["load"] = [round(x, 2) for x in os.getloadavg()]
        row["peak_mb"] = {v: peak_bytes(calls[v]) / 2**20 for v in ("eager", "ours", "bound") if v in calls}
        result["sizes"][str(num_candidates)] = row
        save()


def short_facts() -> dict[str, Any]:
    return {name: value for name, value in torch_facts().items() if name != "config"}


def ready_calls(field: Contestants, inputs: zoo.Inputs, truth: Any, result: dict[str, Any]) -> dict[str, Call]:
    """Every variant warmed up on these inputs and checked against the original; the wrong and the failing are out."""
    calls: dict[str, Call] = {}
    for name, make in field.makers.items():
        if name in field.failures:
            continue
        start = time.perf_counter()
        try:
            call = make(inputs)
            gap = oracle.largest_difference(tree_leaves(call()), tree_leaves(truth))
            call()
        except Exception as error:  # noqa: BLE001 a rival's failure is a result
            field.failures[name] = reason(error)
            continue
        result["first_call_seconds"].setdefault(name, time.perf_counter() - start)
        if gap > 1e-4:
            field.failures[name] = f"wrong by {gap:.1e}"
            continue
        calls[name] = call
    return calls


def floors(
    model: zoo.ZooModel, field: Contestants, inputs: zoo.Inputs, calls: Mapping[str, Call], rate_of_copy: float
) -> dict[str, Any]:
    """FLOPs and bytes left in ours and in bound, their floor in milliseconds, and the cap."""
    rate = matmul_rate(inputs.num_candidates)
    before = oracle.counted_flops(lambda: oracle.pairwise(model, field.eager, inputs))
    row: dict[str, Any] = {"gflops_rate": rate / 1e9, "gbytes_rate": rate_of_copy / 1e9, "flops_before": before}
    for name in ("ours", "bound"):
        if name not in calls:
            continue
        flops, moved = oracle.counted_flops(calls[name]), moved_bytes(calls[name])
        row |= {
            f"flops_{name}": flops,
            f"bytes_{name}": moved,
            f"floor_ms_{name}": 1e3 * (flops / rate + moved / rate_of_copy),
            f"cap_{name}": before / flops if flops else math.inf,
        }
    return row


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads[0])
    keep_freed_memory()  # for every variant alike; products stay in fp32, torch's default, as ONNX Runtime's do
    warnings.simplefilter("ignore")
    target = Path(args.worker)
    with torch.inference_mode(False), torch.no_grad():
        measure_model(args.models, args, lambda results: target.write_text(json.dumps(results)))
