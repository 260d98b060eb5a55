"""Does it pay on this machine to rank several requests in one pass?

    python benchmarks/bench_batching.py --artifact DIR --log lmdb:DIR --json benchmarks/results/batching.json

Levels: requests of R users, N candidates each, through the router and through every level: in one pass over all
candidates (``request_of_candidate``), and one after the other, interleaved; warm user states. A ratio above 1 says that
one pass takes longer than its requests one by one.

Whole requests, with ``--log``: R requests of N candidates at full depth through ``Ranker.rank_together``, where the
cost model decides what shares a pass, and through ``Ranker.rank`` one after the other; ``shared`` is the share of
requests whose deeper levels shared one.

Legend: R requests, N candidates of each, L history length, I id columns, F float columns, U item rows.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthrank.artifact import load_artifact
from depthrank.engine import Ranker
from depthrank.model import CandidateInputs, ElasticRanker, ItemSide, SideConfig
from depthrank.model.elastic_ranker import RequestState
from depthrank.model.inputs import CandidateLayout, RequestInputs
from depthrank.schema import Answer, Request
from depthrank.schema.ask import Ask

ROUNDS = 15
WARM_ROUNDS = 5


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


def whole_requests(ranker: Ranker, num_requests: int, num_each: int) -> dict[str, Any]:
    """Both ways for whole requests, interleaved; medians in milliseconds of the thread, a request."""
    users = sorted(ranker.some_users(num_requests))
    ids = list(ranker.items.ids_of(range(1, ranker.items.size)))
    rng = random.Random(num_requests * num_each)
    times: dict[str, list[float]] = {"together_ms": [], "one_by_one_ms": []}
    for round_number in range(WARM_ROUNDS + ROUNDS):
        asked = [Request(user=user, candidates=rng.sample(ids, num_each), mode="full") for user in users]
        asks = [Ask(request, str(k), time.perf_counter(), record=False) for k, request in enumerate(asked)]
        ways: list[tuple[str, Callable[[], object]]] = [
            ("together_ms", lambda asks=asks: ranker.rank_together(asks)),  # type: ignore[misc]
            ("one_by_one_ms", lambda asked=asked: [ranker.rank(request) for request in asked]),  # type: ignore[misc]
        ]
        for name, way in ways if round_number % 2 else reversed(ways):
            times[name].append(taken_ms(way) / num_requests)
    recorded = ranker.rank_together([Ask(a.request, a.request_id, a.arrived_s, record=True) for a in asks])
    shared = sum(bool(one.record["batches"]) for one in recorded if isinstance(one, Answer)) / num_requests
    found = {name: statistics.median(values[WARM_ROUNDS:]) for name, values in times.items()}
    told = {"requests": num_requests, "candidates_each": num_each, "shared": shared}
    return {**told, **found, "ratio": found["together_ms"] / found["one_by_one_ms"]}


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
    parser.add_argument("--log", help="of the artifact: whole requests too")
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
    whole = []
    if arguments.log is not None:
        ranker = Ranker.load(arguments.artifact, arguments.log)
        for num_each in (20, 50, 100, 250):
            for num_requests in (2, 4, 8):
                whole.append(whole_requests(ranker, num_requests, num_each))
                row = whole[-1]
                print(
                    f"whole requests N {num_each:4d} R {num_requests} together {row['together_ms']:7.3f} ms each, "
                    f"one by one {row['one_by_one_ms']:7.3f} ms x{row['ratio']:.2f} shared {row['shared']:.0%}"
                )
        ranker.close()
    if arguments.json is not None:
        import sys

        from machine_facts import machine_facts

        facts = {
            "machine": machine_facts("torch"),
            "command": " ".join(sys.argv),
            "rows": rows,
            "whole_requests": whole,
        }
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
