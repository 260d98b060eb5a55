"""Does a tuned model with compiled levels keep memory, over requests and over swaps?

    python benchmarks/bench_compiled_memory.py --artifact DIR --log URL [--requests 6000] [--swaps 40] [--json F]

The artifact must be tuned here (``depthrank tune``; the levels that run compiled are told). One process ranks the whole
catalogue for users of the log at full depth, then loads the artifact again and again, ranks and lets go. Resident
memory at the start, at tenths and at the end; what matters is the later half.
"""

from __future__ import annotations

import argparse
import gc
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts, show_facts, torch_facts, write_json


def resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> None:
    from depthrank.engine import Ranker
    from depthrank.events import open_log
    from depthrank.schema import Request

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--swaps", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine_facts("depthrank")
    show_facts(facts)
    set_torch_threads(1)
    log = open_log(options.log)
    asked = [Request(user=user, candidates="all", mode="full") for user in log.some_users(8)]
    ranker = Ranker.load(options.artifact, log)
    precision = ranker.info()["precision"]
    print(f"  {precision}")
    over_requests, over_swaps = [], []
    for number, request in enumerate(islice(cycle(asked), options.requests + 1)):
        ranker.rank(request)
        if number % max(1, options.requests // 10) == 0:
            over_requests.append((number, resident_mb()))
            print(f"  after {number} requests: {over_requests[-1][1]:.1f} MB", flush=True)
    for number in range(1, options.swaps + 1):
        ranker = Ranker.load(options.artifact, log)
        for request in asked:
            ranker.rank(request)
        if number % max(1, options.swaps // 4) == 0:
            over_swaps.append((number, resident_mb()))
            print(f"  after {number} swaps: {over_swaps[-1][1]:.1f} MB", flush=True)
    found: dict[str, Any] = {"precision": precision, "over_requests": over_requests, "over_swaps": over_swaps}
    if options.json:
        write_json(options.json, {"machine": facts | {"torch": torch_facts()}, **found})


if __name__ == "__main__":
    main()
