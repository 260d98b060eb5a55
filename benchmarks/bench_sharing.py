"""How much faster is a shared ranker than the same model pair by pair, and than every rival that exists?

    python benchmarks/bench_sharing.py [--models DeepFM,DIN] [--quick] [--minutes M] [--json F] [--again]

``--brief`` measures every model of torch-rechub at one thread and two in about a quarter of an hour: no vmap, short
timing, one process for both numbers of threads, and compiled variants for three models at one thread only.
With ``--json`` a run goes on where the last one stopped: what the file holds already is not measured again.

One request with N candidates, fp32, the same matmul setting for all. Each (model, threads) has a process of its own,
since dynamo caches code by class; inside it all variants are called in turn, round after round, and medians taken. One
thread is timed by the CPU time that it used, so that other processes disturb little; two threads by the clock.

Variants. ``eager`` is the model as given. ``folded`` has its batch norms folded into linears, ``graph`` is that,
exported to one flat graph: neither shares, and all further rivals start from ``folded``, so that they too have it:
``compile``, ``vmap`` (candidates mapped, request held), ``compile_vmap``, ``ort`` (ONNX Runtime), and with ``--ahead``
``ahead`` (an AOTInductor package). Ours: ``ours_plain`` shares ``eager``; ``ours``, ``ours_compiled``, ``ours_ahead``
(``compile_ahead``), ``bound`` (item-only values from a catalogue) and ``bound_compiled`` share ``folded``.
Pair-by-pair rivals get their replicated inputs for nothing: the copy is not timed.

The floor is the time of the work that is left in ``ours``: its matrix-product FLOPs at the rate measured for a square
product of N rows, plus the bytes that its kernels read and write at the bandwidth measured for a copy. The cap is the
ratio of matrix-product FLOPs before and after: what exactness allows.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from counted_work import CountedBytes
from depthrank.cli.threads import keep_freed_memory
from machine_facts import COPIED_FLOATS, machine_facts, show_facts, torch_facts
from sharing_table import RIVALS, summary, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sharing"))

import zoo
from zoo.oracle import by_vmap, counted_flops, largest_difference, pairwise

OURS = ("ours_plain", "ours", "ours_compiled", "bound", "bound_compiled")
AHEAD = ("ahead", "ours_ahead")
BRIEF = ("eager", "folded", "graph", "ort", "ours", "bound")  # what builds in seconds
COMPILED = ("eager", "folded", "compile", "ort", "ours", "ours_compiled", "bound", "bound_compiled")
COMPILED_WHEN_BRIEF = ("DCN", "MMOE", "DIN")  # half a minute to a minute each
Call = Callable[[], Any]


# --- What runs -------------------------------------------------------------------------------------------------------


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """A copy in which every batch norm that follows a linear in a Sequential is folded into it."""
    folded = copy.deepcopy(module)
    for block in folded.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for i in range(len(block) - 1):
            if isinstance(block[i], nn.Linear) and isinstance(block[i + 1], nn.BatchNorm1d):
                block[i] = nn.utils.fuse_linear_bn_eval(block[i], block[i + 1])
                block[i + 1] = nn.Identity()
    return folded


class OverNames(nn.Module):
    """The model as a function of tensors in the order of their names, so that exporters see a flat signature."""

    def __init__(self, model: zoo.ZooModel, module: nn.Module, num_request: int) -> None:
        super().__init__()
        self.model, self.inner, self.num_request = model, module, num_request

    def forward(self, *columns: Tensor) -> list[Tensor]:
        names = [*self.model.request_names, *self.model.candidate_names]
        split = self.num_request
        request = dict(zip(names[:split], columns[:split], strict=True))
        candidate = dict(zip(names[split:], columns[split:], strict=True))
        args, kwargs = self.model.call_arguments(request, candidate)
        return tree_leaves(self.inner(*args, **kwargs))


class Contestants:
    """Builds every variant once; a variant that cannot be built leaves its reason in ``failures``."""

    def __init__(self, model: zoo.ZooModel, threads: int, wanted: tuple[str, ...]) -> None:
        self.model, self.threads, self.wanted = model, threads, wanted
        self.eager = model.build()
        self.folded = fold_batch_norms(self.eager)
        self.failures: dict[str, str] = {}
        self.build_seconds: dict[str, float] = {}
        self.makers: dict[str, Callable[[zoo.Inputs], Call]] = {}
        builders = {name: getattr(self, f"build_{name}") for name in wanted}
        for name, builder in builders.items():
            self.attempt(name, builder)

    def attempt(self, name: str, builder: Callable[[], Callable[[zoo.Inputs], Call]]) -> None:
        start = time.perf_counter()
        try:
            self.makers[name] = builder()
        except Exception as error:  # noqa: BLE001 a rival's failure is a result
            self.failures[name] = reason(error)
        self.build_seconds[name] = time.perf_counter() - start

    def build_eager(self) -> Callable[[zoo.Inputs], Call]:
        return self.pair_by_pair(self.eager)

    def build_folded(self) -> Callable[[zoo.Inputs], Call]:
        return self.pair_by_pair(self.folded)

    def build_graph(self) -> Callable[[zoo.Inputs], Call]:
        flat = self.exported().module(check_guards=False)
        return lambda inputs: bind_call(flat, *self.columns(inputs))

    def build_compile(self) -> Callable[[zoo.Inputs], Call]:
        return self.pair_by_pair(torch.compile(self.folded, dynamic=True))

    def build_ahead(self) -> Callable[[zoo.Inputs], Call]:
        path = Path(tempfile.mkdtemp()) / "original.pt2"
        torch._inductor.aoti_compile_and_package(self.exported(), package_path=str(path))
        package = torch._inductor.aoti_load_package(str(path))
        return lambda inputs: bind_call(package, *self.columns(inputs))

    def build_vmap(self) -> Callable[[zoo.Inputs], Call]:
        return lambda inputs: lambda: by_vmap(self.model, self.folded, inputs)

    def build_compile_vmap(self) -> Callable[[zoo.Inputs], Call]:
        mapped = torch.compile(lambda inputs: by_vmap(self.model, self.folded, inputs), dynamic=True)
        return lambda inputs: lambda: mapped(inputs)

    def build_ort(self) -> Callable[[zoo.Inputs], Call]:
        import onnxruntime

        if "ort" in self.makers:  # other threads: the exported model is there
            return self.ort_session(onnxruntime)
        columns = self.columns(self.model.draw(1, 4, 4))
        flat = OverNames(self.model, self.folded, len(self.model.request_names)).eval()
        program = torch.onnx.export(flat, columns, dynamo=True, verbose=False, dynamic_shapes=self.dynamic(columns))
        self.onnx_model: bytes = program.model_proto.SerializeToString()
        return self.ort_session(onnxruntime)

    def ort_session(self, onnxruntime: Any) -> Callable[[zoo.Inputs], Call]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(self.onnx_model, options, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        kept = [int(name.rsplit("_", 1)[-1]) if name.startswith("columns_") else i for i, name in enumerate(names)]

        def make(inputs: zoo.Inputs) -> Call:
            arrays = [column.numpy() for column in self.columns(inputs)]
            feed = {name: arrays[i] for name, i in zip(names, kept, strict=True)}
            return lambda: [torch.from_numpy(out) for out in session.run(None, feed)]

        return make

    def build_ours_plain(self) -> Callable[[zoo.Inputs], Call]:
        from depthrank.sharing import share

        shared = share(self.eager, self.model.example(), request_inputs=self.model.request_inputs)
        return lambda inputs: bind_call(shared, inputs.request, inputs.candidate)

    def build_ours(self) -> Callable[[zoo.Inputs], Call]:
        from depthrank.sharing import share

        self.shared = share(self.folded, self.model.example(), request_inputs=self.model.request_inputs)
        return lambda inputs: bind_call(self.shared, inputs.request, inputs.candidate)

    def build_ours_compiled(self) -> Callable[[zoo.Inputs], Call]:
        compiled = self.shared.compile()
        return lambda inputs: bind_call(compiled, inputs.request, inputs.candidate)

    def build_ours_ahead(self) -> Callable[[zoo.Inputs], Call]:
        compiled = self.shared.compile_ahead(tempfile.mkdtemp())
        return lambda inputs: bind_call(compiled, inputs.request, inputs.candidate)

    def build_bound(self) -> Callable[[zoo.Inputs], Call]:
        self.bound = self.shared.bind(self.catalogue)
        return lambda inputs: self.bound_call(self.bound, inputs)

    def build_bound_compiled(self) -> Callable[[zoo.Inputs], Call]:
        compiled = self.bound.compile()
        return lambda inputs: self.bound_call(compiled, inputs)

    @property
    def catalogue(self) -> dict[str, Tensor]:
        """Item-only inputs of a catalogue of 10,000 items; candidates are its first rows."""
        items = self.model.draw(3, 1, 10_000).candidate
        return {name: items[name] for name in self.model.item_names}

    def inputs(self, num_candidates: int) -> zoo.Inputs:
        """One request whose candidates are rows 0.. of the catalogue, so that bound and unbound score the same."""
        drawn = self.model.draw(4, 1, num_candidates)
        items = {name: column[:num_candidates] for name, column in self.catalogue.items()}
        return zoo.Inputs(drawn.request, drawn.candidate | items, drawn.request_of_candidate)

    def bound_call(self, bound: Callable[..., Any], inputs: zoo.Inputs) -> Call:
        others = {name: inputs.candidate[name] for name in self.model.per_request_context}
        return bind_call(bound, inputs.request, torch.arange(inputs.num_candidates), others)

    def pair_by_pair(self, module: Callable[..., Any]) -> Callable[[zoo.Inputs], Call]:
        def make(inputs: zoo.Inputs) -> Call:
            args, kwargs = self.model.call_arguments(*inputs.pairs())
            return bind_call(module, *args, **kwargs)

        return make

    def columns(self, inputs: zoo.Inputs) -> tuple[Tensor, ...]:
        request, candidate = inputs.pairs()
        return (*request.values(), *candidate.values())

    def dynamic(self, columns: tuple[Tensor, ...]) -> Any:
        batch = torch.export.Dim("batch", min=1)
        return (tuple({0: batch} for _ in columns),)

    def exported(self) -> torch.export.ExportedProgram:
        columns = self.columns(self.model.draw(1, 4, 4))
        flat = OverNames(self.model, self.folded, len(self.model.request_names)).eval()
        program = torch.export.export(flat, columns, dynamic_shapes=self.dynamic(columns), strict=False)
        return program.run_decompositions({})


def bind_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return lambda: function(*args, **kwargs)


def reason(error: BaseException) -> str:
    """The first line of an error, short enough for a table."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:200]


# --- What it costs ---------------------------------------------------------------------------------------------------


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


# --- One model, in a process of its own ------------------------------------------------------------------------------


def measure_model(name: str, args: argparse.Namespace, save: Callable[[list[dict[str, Any]]], None]) -> None:
    """All variants of one model at every number of threads and N; ``save`` keeps what a time-out would lose."""
    model = zoo.make(name, zoo.SMALL if args.small else zoo.FULL)
    variants = BRIEF if args.brief == "plain" else COMPILED if args.brief == "compiled" else (*RIVALS, *OURS)
    wanted = tuple(v for v in variants if v not in AHEAD and not (args.no_compile and "compile" in v))
    wanted += AHEAD if args.ahead else ()
    field = Contestants(model, args.threads[0], wanted)
    results: list[dict[str, Any]] = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        if threads != field.threads:
            field.threads = threads
            field.attempt("ort", field.build_ort)
        results.append({
            "model": name, "threads": threads, "torch": short_facts(), "encoder": model.user_side_is_encoder,
            "load": [round(x, 2) for x in os.getloadavg()], "brief": args.brief,
            "failures": field.failures, "build_seconds": field.build_seconds, "first_call_seconds": {}, "sizes": {},
        })  # fmt: skip
        measure_sizes(model, field, args, results[-1], lambda: save(results))


def measure_sizes(
    model: zoo.ZooModel, field: Contestants, args: argparse.Namespace, result: dict[str, Any], save: Callable[[], None]
) -> None:
    rate_of_copy = copy_rate()
    for num_candidates in args.candidates:
        inputs = field.inputs(num_candidates)
        truth = pairwise(model, field.eager, inputs)
        calls = ready_calls(field, inputs, truth, result)
        row: dict[str, Any] = {"median_ms": {k: 1e3 * v for k, v in timed(calls, args.seconds).items()}}
        row |= floors(model, field, inputs, calls, rate_of_copy)
        if num_candidates == max(args.candidates):
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
            gap = largest_difference(tree_leaves(call()), tree_leaves(truth))
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
    before = counted_flops(lambda: pairwise(model, field.eager, inputs))
    row: dict[str, Any] = {"gflops_rate": rate / 1e9, "gbytes_rate": rate_of_copy / 1e9, "flops_before": before}
    for name in ("ours", "bound"):
        if name not in calls:
            continue
        flops, moved = counted_flops(calls[name]), moved_bytes(calls[name])
        row |= {
            f"flops_{name}": flops,
            f"bytes_{name}": moved,
            f"floor_ms_{name}": 1e3 * (flops / rate + moved / rate_of_copy),
            f"cap_{name}": before / flops if flops else math.inf,
        }
    return row


def worker(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads[0])
    keep_freed_memory()  # for every variant alike; products stay in fp32, torch's default, as ONNX Runtime's do
    warnings.simplefilter("ignore")
    target = Path(args.worker)
    with torch.inference_mode(False), torch.no_grad():
        measure_model(args.models, args, lambda results: target.write_text(json.dumps(results)))


# --- All models ------------------------------------------------------------------------------------------------------


def run_worker(
    name: str, threads: list[int], args: argparse.Namespace, brief: str, limit_s: float
) -> list[dict[str, Any]]:
    """One model in a process of its own; a crash or a time-out keeps what was measured before it."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--worker", str(target), "--models", name, "--threads",
                   ",".join(map(str, threads)), "--seconds", str(args.seconds), "--candidates",
                   ",".join(map(str, args.candidates)), "--worker-brief", brief]  # fmt: skip
        command += ["--small"] * args.small + ["--no-compile"] * args.no_compile + ["--ahead"] * args.ahead
        env = os.environ | {"OMP_NUM_THREADS": str(max(threads)), "OMP_WAIT_POLICY": "PASSIVE"}
        with open(Path(folder) / "stderr", "w+") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
            try:
                code: int | str = process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = f"timed out after {limit_s:.0f} s"
            log.seek(0)
            tail = log.read().strip().splitlines()[-1:]
        results: list[dict[str, Any]] = json.loads(target.read_text()) if target.exists() else []
    if code != 0:
        done = [r["threads"] for r in results]
        results += [{"model": name, "threads": t, "sizes": {}} for t in threads if t not in done]
        results[-1]["stopped"] = code if isinstance(code, str) else f"exit {code}: {' '.join(tail)[:300]}"
    return results


def measured_before(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of the JSON file that are complete; with ``--again`` those of other models and threads only."""
    if not args.json or not args.json.exists():
        return []
    known: list[dict[str, Any]] = json.loads(args.json.read_text())["results"]
    wanted = args.models.split(",") if args.again else []
    return [
        r for r in known
        if "stopped" not in r and not (r["model"] in wanted and r["threads"] in integers(args.threads))
    ]  # fmt: skip


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(zoo.RECHUB), help="comma list, or 'all' for our own zoo too")
    parser.add_argument("--candidates", type=integers, default=[100, 1000, 5000])
    parser.add_argument("--threads", default="1,2", help="comma list of thread counts")
    parser.add_argument("--seconds", type=float, default=8.0, help="timing budget of all variants at one N")
    parser.add_argument("--minutes", type=float, default=240.0, help="stop starting models after this long")
    parser.add_argument("--model-minutes", type=float, default=12.0, help="limit for one (model, threads)")
    parser.add_argument("--quick", action="store_true", help="N=100 and 1000, one thread, short timing")
    parser.add_argument("--brief", action="store_true", help="all of it in about a quarter of an hour, see above")
    parser.add_argument("--small", action="store_true", help="the small sizes of the tests")
    parser.add_argument("--no-compile", action="store_true", help="leave compiled variants out")
    parser.add_argument("--ahead", action="store_true", help="AOTInductor packages too, of the original and of ours")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--again", action="store_true", help="measure these models again")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--worker-brief", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.candidates, args.threads, args.seconds = [100, 1000], "1", 2.0
    if args.brief:
        args.seconds, args.model_minutes = min(args.seconds, 1.5), min(args.model_minutes, 4.0)
    if args.models == "all":
        args.models = ",".join(zoo.NAMES)
    return args


def plan(args: argparse.Namespace) -> list[tuple[str, list[int], str]]:
    """What to run, each in a process of its own: (model, threads, which variants)."""
    names, threads = args.models.split(","), integers(args.threads)
    if not args.brief:
        return [(name, [t], "") for t in threads for name in names]
    jobs = [(name, threads, "plain") for name in names if args.no_compile or name not in COMPILED_WHEN_BRIEF]
    if not args.no_compile:
        jobs += [(name, [t], "compiled" if t == 1 else "plain") for name in names if name in COMPILED_WHEN_BRIEF
                 for t in threads]  # fmt: skip
    return jobs


def main() -> None:
    args = parse()
    if args.worker:
        args.threads, args.brief = integers(args.threads), args.worker_brief
        worker(args)
        return
    about = machine_facts("depthrank", "numpy", "torch-rechub", "onnxruntime")
    show_facts(about)
    print(f"{zoo.SMALL if args.small else zoo.FULL}, one request, fp32", flush=True)
    deadline, results = time.monotonic() + 60 * args.minutes, measured_before(args)
    for name, threads, brief in plan(args):
        todo = [t for t in threads if not any((r["model"], r["threads"]) == (name, t) for r in results)]
        if not todo:
            continue
        left = deadline - time.monotonic()
        if left < 10:
            print(f"{name}: not run, the {args.minutes:g} minutes are over")
            continue
        found = run_worker(name, todo, args, brief, min(left, 60 * args.model_minutes))
        results += found
        for result in found:
            print(table(result), flush=True)
        if args.json:
            record = {"machine": about, "results": results, "summary": summary(results)}
            args.json.write_text(json.dumps(record, indent=1))
    print("\ngeometric means")
    for row in summary(results):
        print("  " + " ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
