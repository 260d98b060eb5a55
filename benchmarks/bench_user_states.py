"""What does a cached user state save: the user side encoded afresh, extended by new events, or found as it is?

    python benchmarks/bench_user_states.py [--width 256] [--layers 6] [--history 512] [--repeats 15] [--json F]

The user encoder alone, with random weights: all layers over a history, against extending a state that lacks the newest
1, 16 and 32 events (the engine fills histories up to multiples of 32 there, so an event takes 1 to 32 tokens).
Interleaved; milliseconds of the thread, so that a neighbour on the machine counts little. Every
extended state is compared with the fresh one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts, show_facts, torch_facts, write_json

NEW_EVENTS = (1, 16, 32)


def measure(width: int, layers: int, history: int, repeats: int) -> dict[str, Any]:
    """Median thread milliseconds of each way, their ratio to encoding afresh, and the largest difference."""
    import torch

    from depthrank.model import LevelConfig, ModelConfig, SideConfig
    from depthrank.model.user_encoder import UserEncoder

    torch.manual_seed(0)
    side = SideConfig()
    levels = (LevelConfig(reads=tuple(range(layers))),)
    sizes: dict[str, Any] = {"history_length": history, "width": width, "heads": max(1, width // 64), "levels": levels}
    config = ModelConfig(("click",), (0.0,), 2, side, side, side, router_layers=layers, dropout=0.0, **sizes)
    encoder = UserEncoder(config).eval()
    tokens = torch.randn(1, history, width)
    actions, gaps = torch.ones(1, history, dtype=torch.int64), torch.zeros(1, history, dtype=torch.int64)

    def fresh(events: int = history) -> Any:
        return encoder.deepen_(encoder.start(tokens[:, :events], actions[:, :events], gaps[:, :events]), layers)

    def extended(state: Any, first: int) -> Any:
        return encoder.extend(state, tokens[:, first:], actions[:, first:], gaps[:, first:])

    ways: dict[str, Callable[[], Any]] = {"fresh": fresh}
    spent: dict[str, list[float]] = {}
    with torch.inference_mode():
        for new in NEW_EVENTS:
            before = fresh(history - new).compact()
            ways[f"extended by {new}"] = lambda before=before, new=new: extended(before, history - new)
        whole = fresh().compact()
        ways["found as it is"] = lambda: whole.prefix(history + 1)
        for _ in range(repeats):
            for name, way in ways.items():
                began = time.thread_time()
                way()
                spent.setdefault(name, []).append((time.thread_time() - began) * 1e3)
        last = fresh()
        apart = max(
            float((a - b).abs().max())
            for new in NEW_EVENTS
            for a, b in zip(ways[f"extended by {new}"]().keys_SHPd, last.keys_SHPd, strict=True)
        )
    medians = {name: float(np.median(ms)) for name, ms in spent.items()}
    ratios = {name: medians["fresh"] / ms for name, ms in medians.items()}
    return {"thread_ms": medians, "times_faster": ratios, "state_bytes": last.compact().nbytes, "apart": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--history", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    set_torch_threads(1)
    facts = machine_facts("depthrank", "numpy") | {"torch": torch_facts()}
    show_facts(facts)
    result = measure(arguments.width, arguments.layers, arguments.history, arguments.repeats)
    sizes = {name: getattr(arguments, name) for name in ("width", "layers", "history", "repeats")}
    for name, value in (sizes | result).items():
        print(f"{name:14} {value}")
    if arguments.json:
        write_json(arguments.json, {"machine": facts, "sizes": sizes, "result": result})


if __name__ == "__main__":
    main()
