"""What adaptive depth gains over a router-only ranker that is as fast at p99.

    python benchmarks/quality/equal_p99.py --set trivago|kuairand|ml1m [--requests 400] [--clock wall|cpu] [--json F]

Both rankers serve the same held-out requests in one process, turn by turn, in the order of time, each with a cache of
user states of its own. The rival scores every candidate by level 0 and stops: more time would not change its order. Its
p99 is the promise that a service gives. The adaptive ranker gets that promise as a deadline: a request that level 0 and
the user side leave time for goes deeper, the slowest ones stay at the router's order. The deadline is set on validation
requests so that the adaptive p99 is the rival's there; both p99s of the test requests are printed. Rows at 1.5, 2 and 3
times the rival's p99 show what a looser promise would buy; ``1.0`` is the comparison at equal p99.

Requests are whole calls of ``Ranker.rank``: history, features, levels, order. Counters as of a past time are built
before the clock starts (a live server builds them once a bucket). ``--clock cpu`` counts thread time, deadlines
included, so that a busy machine does not decide. The adaptive ranker takes more CPU in the mean: that is printed too.

trivago: MRR and hit@1 of the displayed lists. ML-1M (``--spec deeper.yaml --log lmdb:work/ml1m/log``): hit@10 and MRR
over all items that the user has not seen. KuaiRand: days of users as lists of 1,000 videos
(``kuairand_slates.py``), GAUC of click and long view over the pairs that users were shown. Differences are paired,
intervals by bootstrap over users. What a replay cannot show: labels exist for what another system showed, and nobody
clicked on these answers.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kuairand_slates
import numpy as np
import numpy.typing as npt
from kuairand_slates import Slates

from depthrank.engine import Ranker
from depthrank.engine.overlay_switch import GenerationSwitch
from depthrank.engine.pace import Pace
from depthrank.engine.run_plan import Scores
from depthrank.engine.user_states import UserStates
from depthrank.evaluate.engine_timings import request_of
from depthrank.events import EventLog, open_log
from depthrank.metrics import auc_per_user, mean_difference, mean_interval
from depthrank.schema import Request
from depthrank.training.replay_requests import OneRequest

FACTORS = (1.0, 1.5, 2.0, 3.0)
ROUNDS = 3  # of setting the deadline on validation, the first of the rival alone
REPLICATES = 1_000

Floats = npt.NDArray[np.float64]
Plain = dict[str, Any]


class Watched(Ranker):
    """A ranker that keeps the scores of its latest request: the whole order, whatever the answer shows of it.

    ``until_s``: nothing deeper than level 0 starts after it; level 0 runs in any case, as the rival's does.
    """

    scores: Scores | None = None
    until_s = math.inf

    def _choose(self, job: Any, scores: Scores, pace: Pace, price: float | None = None) -> Any:
        self.scores, pace.deadline_s = scores, self.until_s
        return super()._choose(job, scores, pace, price)


def another(ranker: Watched) -> Watched:
    """A ranker over the same generation, counters and costs, with a user-state cache of its own."""
    generation, twin = copy.copy(ranker.generation), copy.copy(ranker)
    twin.states = generation.states = UserStates()
    twin._switch = GenerationSwitch(generation, generation._ages)
    return twin


class Bench:
    """Rankers over one artifact: the rival, ours by deadline, and one that only builds counters ahead of the clock."""

    def __init__(self, slates: Slates, log: EventLog, clock_s: Callable[[], float]) -> None:
        self.clock_s, self.slates = clock_s, slates
        self.rival = Watched(slates.artifact, log, monotonic_s=clock_s)
        self.rival.warm()
        self.ours = {factor: another(self.rival) for factor in FACTORS}
        self._ahead = another(self.rival)
        policy = slates.artifact.adaptive
        assert policy is not None
        self._price = policy.price_bounds[0]  # time is the limit here, not the price

    def ahead(self, one: OneRequest) -> Request:
        """The request as a client would send it; what it reads of counters is ready from now on."""
        request = request_of(one.batch, self.slates.raw.items, "router")
        self._ahead.rank(request)
        self._ahead.states.forget(str(request.user))
        return request

    def timed(self, ranker: Watched, request: Request, deadline_ms: float | None) -> tuple[float, float, Floats]:
        """Milliseconds by the bench's clock and of the thread, and a score for each candidate that gives its place."""
        mode = "router" if deadline_ms is None else "adaptive"
        asked = _changed(request, mode=mode)
        started, thread = self.clock_s(), time.thread_time()
        ranker.until_s = math.inf if deadline_ms is None else started + deadline_ms / 1e3
        ranker.rank(asked, price=self._price)
        took, used = (self.clock_s() - started) * 1e3, (time.thread_time() - thread) * 1e3
        assert ranker.scores is not None, "level 0 has scored"
        return took, used, _places(ranker.scores, len(_items(request)))

    def deadlines(self, requests: Sequence[OneRequest]) -> dict[float, float]:
        """By factor, the deadline at which the adaptive p99 is so many times the rival's on these requests."""
        at: dict[float, float] = dict.fromkeys(FACTORS, float("inf"))
        for number in range(ROUNDS):
            rival: list[float] = []
            ours: dict[float, list[float]] = {factor: [] for factor in FACTORS}
            for ranker in (self.rival, *self.ours.values()):
                for one in requests:
                    ranker.states.forget(one.batch.user[0])
            for one in requests:
                request = self.ahead(one)
                rival.append(self.timed(self.rival, request, None)[0])
                for factor in FACTORS if number else ():
                    ours[factor].append(self.timed(self.ours[factor], request, at[factor])[0])
            for factor in FACTORS:
                goal = factor * float(np.percentile(rival, 99))
                over = float(np.percentile(ours[factor], 99)) - goal if number else 0.0
                at[factor] = float(np.clip(min(at[factor], goal) - over, goal / 2, goal))
        return at


def _changed(request: Request, **settings: Any) -> Request:
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return Request(**{**fields, **settings})


def _items(request: Request) -> Sequence[Any]:
    listed: Any = request.candidates["item"] if isinstance(request.candidates, dict) else request.candidates
    return listed


def _places(scores: Scores, n: int) -> Floats:
    """Minus the place in the order of the answer: deepest level, then value, then place in the input."""
    order_N = np.lexsort((np.arange(n), -scores.value_N, -scores.level_N))
    place_N = np.empty(n)
    place_N[order_N] = np.arange(n)
    return -place_N


def measure(bench: Bench, deadlines: dict[float, float], requests: Sequence[OneRequest], judge: Judge) -> Plain:
    """Times and figures of the rival and of ours at each deadline."""
    took: dict[str, list[tuple[float, float]]] = {"router": [], **{str(f): [] for f in deadlines}}
    score: dict[str, list[Floats]] = {name: [] for name in took}
    for one in requests:
        request = bench.ahead(one)
        for name in took:
            deadline = None if name == "router" else deadlines[float(name)]
            ranker = bench.rival if deadline is None else bench.ours[float(name)]
            wall, thread, places = bench.timed(ranker, request, deadline)
            took[name].append((wall, thread))
            score[name].append(places)
    found: Plain = {}
    for name, pairs in took.items():
        times, threads = np.array(pairs).T
        found[name] = {
            "deadline_ms": None if name == "router" else deadlines[float(name)],
            **{f"p{q}_ms": float(np.percentile(times, q)) for q in (50, 99)},
            "mean_thread_ms": float(threads.mean()),
            **judge.figures(requests, score[name]),
        }
        if name != "router":
            found[name]["minus_router"] = judge.differences(requests, score[name], score["router"])
    return found


class Lists:
    """trivago and ML-1M: the place of the one that was taken."""

    def figures(self, requests: Sequence[OneRequest], scores: Sequence[Floats]) -> Plain:
        return {name: float(np.nanmean(values)) for name, values in self._values(requests, scores).items()}

    def differences(self, requests: Sequence[OneRequest], ours: Sequence[Floats], rival: Sequence[Floats]) -> Plain:
        a, b, user_R = self._values(requests, ours), self._values(requests, rival), _users(requests)
        return {name: mean_difference(a[name], b[name], user_R, replicates=REPLICATES).to_plain() for name in a}

    def _values(self, requests: Sequence[OneRequest], scores: Sequence[Floats]) -> dict[str, Floats]:
        first_R = np.array([self._first(one.batch.label[:, 0], s) for one, s in zip(requests, scores, strict=True)])
        hits = {f"hit@{k}": np.where(np.isnan(first_R), np.nan, first_R <= k) for k in (1, 10)}
        return {"mrr": 1.0 / first_R, **hits}

    @staticmethod
    def _first(label_N: Floats, score_N: Floats) -> float:
        """The place of the first positive, from 1; NaN without one."""
        hit_N = label_N[np.argsort(-score_N, kind="stable")] > 0
        return float(hit_N.argmax() + 1) if hit_N.any() else float("nan")


class Pairs:
    """KuaiRand: what a user was shown, clicked or not; AUC per user, weighted by the user's impressions."""

    tasks = kuairand_slates.GATE_TASKS

    def figures(self, requests: Sequence[OneRequest], scores: Sequence[Floats]) -> Plain:
        return {
            f"gauc {task}": mean_interval(*self._rows(requests, scores, k), replicates=2).estimate
            for k, task in enumerate(self.tasks)
        }

    def differences(self, requests: Sequence[OneRequest], ours: Sequence[Floats], rival: Sequence[Floats]) -> Plain:
        found = {}
        for k, task in enumerate(self.tasks):
            (a, user), (b, _) = self._rows(requests, ours, k), self._rows(requests, rival, k)
            found[f"gauc {task}"] = mean_interval(a - b, user, replicates=REPLICATES).to_plain()
        return found

    def _rows(self, requests: Sequence[OneRequest], scores: Sequence[Floats], task: int) -> tuple[Floats, Any]:
        """The AUC of its user for every labelled impression, of users with both classes."""
        shown = [np.flatnonzero(np.isfinite(one.batch.label[:, task])) for one in requests]
        labels = [one.batch.label[at, task] for one, at in zip(requests, shown, strict=True)]
        label_n = np.concatenate(labels).astype(np.float64)
        score_n = np.concatenate([s[at] for s, at in zip(scores, shown, strict=True)])
        user_n = np.repeat(_users(requests), [len(at) for at in shown])
        by_user = auc_per_user(label_n, score_n, user_n)
        weight = np.where(np.isnan(by_user.auc), 0, by_user.num_impressions)
        return np.repeat(by_user.auc, weight), np.repeat(np.arange(len(weight)), weight)


Judge = Lists | Pairs


def _users(requests: Sequence[OneRequest]) -> npt.NDArray[np.int64]:
    return np.unique([one.batch.user[0] for one in requests], return_inverse=True)[1].astype(np.int64)


def loaded(name: str, spec: Path, artifact: Path, most: int, log: EventLog) -> Slates:
    """The requests of a set and its artifact; KuaiRand's lists get a policy fitted on lists."""
    if name != "kuairand":
        return Slates.load(spec, artifact, log)
    work = spec.parent
    slates = Slates.load(kuairand_slates.write_slates(work, most), artifact, log)
    fitted = kuairand_slates.replayed_slates(slates, log, most)
    return replace(slates, artifact=fitted.artifact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("trivago", "kuairand", "ml1m"), required=True)
    parser.add_argument("--work", type=Path, help="the prepared recipe; default work/SET")
    parser.add_argument("--spec", default="ranking.yaml", help="its spec in --work")
    parser.add_argument("--log", help="its event log; default lmdb:WORK/events")
    parser.add_argument("--artifact", type=Path, help="default: artifact0 in it")
    parser.add_argument(
        "--requests", type=int, default=400, help="test requests at most; a quarter as many of validation"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from depthrank.cli.threads import set_torch_threads

    set_torch_threads(1)
    work = options.work or Path("work") / options.set
    clock_s = time.thread_time if options.clock == "cpu" else time.perf_counter
    judge: Judge = Pairs() if options.set == "kuairand" else Lists()
    with open_log(options.log or f"lmdb:{work}/events", read_only=True) as log:
        artifact = options.artifact or work / "artifact0"
        slates = loaded(options.set, work / options.spec, artifact, options.requests, log)
        bench = Bench(slates, log, clock_s)
        tuned_on = slates.requests("validation", max(options.requests // 4, 10))
        deadlines = bench.deadlines(tuned_on)
        found = measure(bench, deadlines, slates.requests("test", options.requests), judge)
    for name, row in found.items():
        print(name, json.dumps(row))
    if options.json:
        result = {"command": shlex.join(["python", *sys.argv]), "clock": options.clock, "ways": found}
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
