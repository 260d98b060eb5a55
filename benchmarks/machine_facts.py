"""What a benchmark runs on and how fast that is: printed first, and kept in every result.

    python benchmarks/machine_facts.py [--threads T] [--json F]

``fp32_gemm_flops`` is the best rate seen of a square fp32 product, under the matmul precision that is set;
``copy_bytes`` the best bytes a second, read plus written, of a copy that no cache holds. Floors divide by these two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

GEMM_WIDTHS = (512, 1024, 2048)
COPIED_FLOATS = 16 << 20
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


def cpu_name() -> str:
    """The processor as Linux names it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine_facts(*packages: str) -> dict[str, Any]:
    """Machine, load and versions. A process that measures torch adds ``torch_facts``."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "platform": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: version_of(name) for name in packages},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "command": " ".join(sys.argv),
    }


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def torch_facts() -> dict[str, Any]:
    """What decides the speed of torch here."""
    import torch

    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),
        "mkl": torch.backends.mkl.is_available(),
        "config": " ".join(torch.__config__.show().split()),
    }


def measured_rates() -> dict[str, float]:
    """FLOP/s of fp32 products and bytes/s of copies, with torch's present threads and settings."""
    return {"fp32_gemm_flops": max(map(square_gemm_flops, GEMM_WIDTHS)), "copy_bytes": copy_bytes()}


def square_gemm_flops(width: int) -> float:
    """FLOP/s of a square product."""
    return linear_flops(width, width)


def linear_flops(num_rows: int, width: int) -> float:
    """FLOP/s of a linear layer of ``width`` x ``width`` over ``num_rows`` rows."""
    import torch

    x, w = torch.randn(num_rows, width), torch.randn(width, width)
    return 2 * num_rows * width**2 / min(seconds_of(lambda: torch.nn.functional.linear(x, w)))


def copy_bytes() -> float:
    """Bytes per second, read plus written, of a copy of 64 MB."""
    import torch

    source = torch.randn(COPIED_FLOATS)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / min(seconds_of(lambda: target.copy_(source)))


def median_seconds(call: Callable[[], Any], seconds: float = 0.3) -> float:
    """Median time of a call."""
    return statistics.median(seconds_of(call, seconds))


def seconds_of(call: Callable[[], Any], seconds: float = 0.3) -> list[float]:
    """Times of at least five calls, after one to warm up."""
    call()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < deadline:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def show_facts(facts: Mapping[str, Any]) -> None:
    """The facts in a few lines; torch's long configuration stays in the JSON."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if k != "config")
        print(f"{name}: {value}", flush=True)


def write_json(path: Path, results: Any) -> None:
    """Write results for people and programs to read; a number that JSON cannot hold is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from depthrank.cli.threads import set_torch_threads

    set_torch_threads(arguments.threads)
    facts = machine_facts("depthrank", "numpy") | {"torch": torch_facts(), "rates": measured_rates()}
    show_facts(facts)
    if arguments.json:
        write_json(arguments.json, facts)


if __name__ == "__main__":
    main()
