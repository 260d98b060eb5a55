"""Does it pay on this machine to rank several requests in one pass?

    python benchmarks/bench_batching.py --artifact DIR --json benchmarks/results/batching.json

Requests of R users, N candidates each, through the router and through every level: in one pass over all candidates
(``request_of_candidate``), and one after the other, interleaved; warm user states. A ratio above 1 says that one pass
takes longer than its requests one by one.

Legend: R requests, N candidates of each, L history length, I id columns, F float columns, U item rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthrank.artifact import load_artifact
from depthrank.model import CandidateInputs, ElasticRanker, ItemSide, SideConfig
from depthrank.model.elastic_ranker import RequestState
from depthrank.model.inputs import CandidateLayout, RequestInputs

ROUNDS = 15


def id_columns(side: SideConfig) -> int:
    """Id columns I of a side."""
    return max((slot.stop for slot in side.slots), default=0)


def requests(model: ElasticRanker, num_requests: int) -> RequestInputs:
    """R requests with full histories."""
    config = model.config
    length = config.history_length
    return RequestInputs(
        torch.zeros(num_requests, id_columns(config.request), dtype=torch.int64),
        torch.zeros(num_requests, config.request.num_floats),
        torch.randint(0, 64, (num_requests, length)),
        torch.ones(num_requests, length, dtype=torch.int32),
        torch.ones(num_requests, length, dtype=torch.int32),
        torch.ones(num_requests, length, dtype=torch.int32),
        torch.full((num_requests,), length),
    )


def candidates(model: ElasticRanker, num_requests: int, num_each: int) -> CandidateInputs:
    """N candidates of each of R requests."""
    config, total = model.config, num_requests * num_each
    return CandidateInputs(
        torch.randint(0, 64, (total,)),
        torch.zeros(total, id_columns(config.candidate), dtype=torch.int64),
        torch.zeros(total, config.candidate.num_floats),
        torch.arange(num_requests).repeat_interleave(num_each),
    )


def items(model: ElasticRanker) -> ItemSide:
    """64 item rows."""
    config = model.config
    return model.encode_items(
        torch.zeros(64, id_columns(config.item), dtype=torch.int64), torch.randn(64, config.item.num_floats)
    )


def through(model: ElasticRanker, seen: RequestState, side: ItemSide, asked: CandidateInputs, depth: int) -> Tensor:
    """Logits after ``depth`` levels beyond the router."""
    logits = model.route(seen, side, asked)
    if not depth:
        return logits
    state, layout = model.start(side, asked), CandidateLayout(asked.request_of_candidate_N, seen.num_requests)
    for level in range(1, depth + 1):
        logits, state = model.refine(level, seen, state, asked.request_of_candidate_N, logits, layout)
    return logits


@torch.inference_mode()
def compare(model: ElasticRanker, num_requests: int, num_each: int, depth: int) -> dict[str, Any]:
    """Both ways, interleaved; medians in milliseconds, and how far their logits lie apart."""
    side, together = items(model), requests(model, num_requests)
    seen = model.begin(together, side)
    for level in range(1, depth + 1):
        model.encoder.deepen_(seen.view.state, model.encoder_depth(level))
    asked = candidates(model, num_requests, num_each)
    alone = []
    for r in range(num_requests):
        one = RequestInputs(*(getattr(together, name)[r : r + 1] for name in ONE_BY_ONE))
        state = model.begin(one, side)
        for level in range(1, depth + 1):
            model.encoder.deepen_(state.view.state, model.encoder_depth(level))
        part = slice(r * num_each, (r + 1) * num_each)
        zeros = torch.zeros(num_each, dtype=torch.int64)
        alone.append((state, CandidateInputs(asked.rows_N[part], asked.ids_NI[part], asked.floats_NF[part], zeros)))
    as_one = lambda: through(model, seen, side, asked, depth)  # noqa: E731
    one_by_one = lambda: torch.cat([through(model, s, side, c, depth) for s, c in alone])  # noqa: E731
    apart = float((as_one() - one_by_one()).abs().max())
    times = {"one_pass_ms": [], "one_by_one_ms": []}
    for _ in range(ROUNDS):
        times["one_pass_ms"].append(taken_ms(as_one))
        times["one_by_one_ms"].append(taken_ms(one_by_one))
    found = {name: statistics.median(values) for name, values in times.items()}
    ratio = found["one_pass_ms"] / found["one_by_one_ms"]
    told = {"requests": num_requests, "candidates_each": num_each, "levels": depth}
    return {**told, **found, "ratio": ratio, "logits_apart": apart}


ONE_BY_ONE = ("ids_RI", "floats_RF", "history_rows_SL", "actions_SL", "gaps_SL", "age_RL", "length_R")


def taken_ms(call: Callable[[], object]) -> float:
    """Thread time of a call."""
    started = time.thread_time()
    call()
    return (time.thread_time() - started) * 1e3


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    model = load_artifact(arguments.artifact).model
    rows = []
    for depth in range(model.config.num_levels):
        for num_each in (16, 64, 256, 1_000):
            for num_requests in (2, 4, 8):
                rows.append(compare(model, num_requests, num_each, depth))
                row = rows[-1]
                print(
                    f"levels {depth} N {num_each:5d} R {num_requests} one pass {row['one_pass_ms']:8.3f} ms "
                    f"one by one {row['one_by_one_ms']:8.3f} ms x{row['ratio']:.2f} apart {row['logits_apart']:.1e}"
                )
    if arguments.json is not None:
        import sys

        from machine_facts import machine_facts

        facts = {"machine": machine_facts("torch"), "command": " ".join(sys.argv), "rows": rows}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
