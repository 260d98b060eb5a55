"""Which library is faster for how many rows: oneDNN (fp32 matmul precision "medium") or the BLAS ("highest").

    python benchmarks/bench_few_rows.py [--json F]

``F.linear`` of the sizes that levels have, both settings in turn, CPU time of one thread; ``cold`` with 16 MB written
between two calls, as other layers do in a request. What ``precision/product_mode.py`` chooses by.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.nn import functional

from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts

SIZES = ((64, 256), (256, 64), (533, 256), (128, 512), (1024, 1024))
ROWS = (1, 8, 32, 64, 128, 256, 1_000)
SETTINGS = ("medium", "highest")


def microseconds(inputs: int, outputs: int, rows: int, between: torch.Tensor | None, calls: int = 40) -> list[float]:
    """Medians of both settings."""
    weight, x = torch.randn(outputs, inputs), torch.randn(rows, inputs)
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(calls):
        for name, found in times.items():
            torch.set_float32_matmul_precision(name)
            if between is not None:
                between.add_(1.0)
            started = time.thread_time()
            functional.linear(x, weight)
            found.append(time.thread_time() - started)
    return [round(1e6 * statistics.median(found), 1) for found in times.values()]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    set_torch_threads(1)
    between = torch.zeros(4 << 20)
    rows: list[dict[str, object]] = []
    for inputs, outputs in SIZES:
        for name, other in (("loop", None), ("cold", between)):
            found = {n: microseconds(inputs, outputs, n, other) for n in ROWS}
            rows.append({"inputs": inputs, "outputs": outputs, "caches": name, "medium_highest_us": found})
            print(f"{inputs} -> {outputs}, {name}: " + ", ".join(f"{n}: {a}/{b}" for n, (a, b) in found.items()))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine_facts("torch"), "results": rows}, indent=1))


if __name__ == "__main__":
    main()
