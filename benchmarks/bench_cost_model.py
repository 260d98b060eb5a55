"""How well are costs predicted after a minute of traffic?

    python benchmarks/bench_cost_model.py [--artifact DIR] [--log URL] [--seconds 60] [--judged 30] [--json F]

Random requests (candidates of the catalogue, 10 to ``--most``, users, modes, every third with a deadline) go through
``Ranker.rank`` one after the other for ``--seconds``; the engine learns from each. Then, for ``--judged`` seconds more,
|predicted - actual| / actual of a request's user side and levels, every prediction made before its request was seen:
by time of the thread, which is what is predicted, and by the wall, which also has the neighbours on the machine. The
same by how the user's state was found and by mode. ``floor``: the same request twice in a row, state warm: how much
one time tells of the next at all; no prediction can be better than about that divided by the square root of two.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts, show_facts, torch_facts, write_json

MODES = ("adaptive", "full", "router")
GOAL = 0.2


class Traffic:
    """Random requests through a ranker."""

    def __init__(self, ranker: Any, most: int, seed: int) -> None:
        self.ranker, self.random = ranker, np.random.default_rng(seed)
        self.ids = ranker.items.ids_of(range(1, min(ranker.items.size, 20_000)))
        users = ranker.generation.users
        self.users = (
            users.ids_of(range(1, min(users.size, 400))) if users is not None else list(map(str, range(1, 400)))
        )
        self.most = min(most, len(self.ids))

    def request(self) -> Any:
        from depthrank.schema import Request

        count = int(np.exp(self.random.uniform(np.log(10), np.log(self.most))))
        chosen = self.random.choice(len(self.ids), count, replace=False)
        deadline = float(self.random.uniform(20, 200)) if self.random.random() < 1 / 3 else None
        mode: Any = MODES[int(self.random.integers(len(MODES)))]
        user = self.users[int(self.random.integers(len(self.users)))]
        return Request(user=user, candidates=[self.ids[i] for i in chosen], top=10, mode=mode, deadline_ms=deadline)

    def times(self, request: Any) -> tuple[float, float, float, bool]:
        """Predicted, thread and wall milliseconds of user side and levels, and whether the state was warm."""
        answer = self.ranker.rank(request, spent=True)
        stages = answer.timings_ms.items()
        wall = sum(ms for name, ms in stages if name == "user" or name.startswith("level"))
        return answer.spent.predicted_ms, answer.spent.thread_ms, wall, answer.spent.warm


def measure(traffic: Traffic, seconds: float, judged: float) -> dict[str, Any]:
    """Errors after ``seconds`` of traffic, by what they are relative to, by mode and by state; and the floor."""
    until, learned = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        traffic.times(traffic.request())
        learned += 1
    errors: dict[str, list[float]] = defaultdict(list)
    until = time.perf_counter() + judged
    while time.perf_counter() < until or len(errors["thread"]) < 20:
        request = traffic.request()
        predicted, thread, wall, warm = traffic.times(request)
        state = "warm" if warm else "cold or extended"
        for name in ("thread", f"thread, {request.mode}", f"thread, {state}"):
            errors[name].append(abs(predicted - thread) / thread)
        errors["wall"].append(abs(predicted - wall) / wall)
        if request.deadline_ms is None:
            first, second = (traffic.times(request)[1] for _ in range(2))
            errors["floor"].append(abs(first - second) / second)
    return {
        "requests_learned_from": learned,
        "requests_judged": len(errors["thread"]),
        "relative_error": {name: quantiles(found) for name, found in errors.items()},
        "within_goal": bool(np.quantile(errors["thread"], 0.9) <= GOAL),
    }


def quantiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 90)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=Path("demo/artifact"))
    parser.add_argument("--log", help="its event log (default: the one it names); it is copied")
    parser.add_argument("--seconds", type=float, default=60.0, help="of traffic to learn from")
    parser.add_argument("--judged", type=float, default=30.0, help="seconds of traffic after it")
    parser.add_argument("--most", type=int, default=2_000, help="candidates")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    set_torch_threads(1)
    from depthrank.artifact import read_manifest
    from depthrank.engine import Ranker
    from depthrank.events import EventLog, open_log

    facts = machine_facts("depthrank", "numpy") | {"torch": torch_facts()}
    show_facts(facts)
    with tempfile.TemporaryDirectory() as folder:
        with open_log(arguments.log or read_manifest(arguments.artifact).log_url, read_only=True) as log:
            log.backup(Path(folder) / "backup")
        with EventLog.restore(Path(folder) / "backup", f"lmdb:{folder}/events") as log:
            ranker = Ranker.load(arguments.artifact, log)
            ranker.warm()
            result = measure(Traffic(ranker, arguments.most, 0), arguments.seconds, arguments.judged)
    for name, value in result.items():
        print(f"{name:24} {value}")
    if arguments.json:
        write_json(arguments.json, {"machine": facts, "result": result})


if __name__ == "__main__":
    main()
