"""KuaiRand as lists worth ranking: 1,000 videos for a user's day, of which the user saw a few.

    python benchmarks/quality/kuairand_slates.py [--work work/kuairand] [--requests 400] [--json F] [--html F]

The log's impressions come about one at a time, so candidates are built: a request is a user's day (04-29 to choose on,
04-30 to judge), as of the full hour before its first impression; its candidates are what the user was shown that day,
with labels, and videos shown to anybody that day, without, up to 1,000. Only days with a click and an impression
without one.

Labels say which of the shown ones were clicked and nothing about the rest. So full depth is compared with the router on
the shown ones alone (NDCG@10 of click and long view, every such day), and kept gain, which needs no label, is of all
1,000. The ladder, the value of depth and the prices are fitted on the days of 04-29 (the artifact's own policy is of
requests of one candidate).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml

from depthrank.artifact import Artifact
from depthrank.data import RawDataset, load_dataset, load_examples
from depthrank.engine.ready_artifact import ready_artifact
from depthrank.evaluate.engine_costs import PlannedRanker, engine_costs
from depthrank.evaluate.engine_timings import engine_timings
from depthrank.evaluate.evaluate_artifact import replace_data
from depthrank.evaluate.replay import ENGINE_REQUESTS, TIMED_REQUESTS, ReplayedArtifact
from depthrank.events import EventLog, open_log
from depthrank.features import Counters
from depthrank.metrics import Interval, mean_difference
from depthrank.routing import AdaptivePolicy
from depthrank.schema import Spec
from depthrank.training.fit_policy import fit_policy
from depthrank.training.measure_costs import thinned_requests, thread_clock
from depthrank.training.replay_requests import FullDepth, HeldOut, OneRequest, replay

HOUR_MS, DAY_MS, BEIJING_MS = 3_600_000, 86_400_000, 8 * 3_600_000
DAYS = {"validation": 19_111, "test": 19_112}  # 04-29 and 04-30 in Beijing, in days since 1970
TRAIN_DAY, TRAIN_REQUESTS = 19_110, 10  # nothing is trained here, but a dataset has a training split
CANDIDATES = 1_000
LABELS = ("is_click", "long_view", "is_like", "is_follow")
GATE_TASKS = ("click", "long_view")
TOP = 10

Floats = npt.NDArray[np.float64]
Plain = dict[str, Any]


def write_slates(work: Path, most: int, candidates: int = CANDIDATES, seed: int = 0) -> Path:
    """Lists as Parquet with a spec, beside the recipe, of at most ``most`` days of users at random; ``candidates``
    0: those shown alone."""
    shown = pl.read_parquet(work / "impressions.parquet")
    shown = shown.with_columns(((pl.col("time_ms") + BEIJING_MS) // DAY_MS).alias("day"))
    rng, rows = np.random.default_rng(seed), list[Plain]()
    for day in (TRAIN_DAY, *DAYS.values()):
        of_day = shown.filter(pl.col("day") == day).sort("time_ms")
        live = of_day["video_id"].unique().sort().to_numpy()
        first = of_day.unique(["user_id", "video_id"], keep="first", maintain_order=True)
        days = first.partition_by("user_id", maintain_order=True)
        days = [own for own in days if 0 < own["is_click"].sum() < len(own)]
        chosen = rng.choice(len(days), min(len(days), most), replace=False).tolist()
        if day == TRAIN_DAY:  # with a positive of every task
            chosen = np.argsort([-own["is_follow"].sum() for own in days], kind="stable")[:TRAIN_REQUESTS].tolist()
        rows += [_request(days[i], live, candidates, rng) for i in chosen]
    name = f"lists_{candidates}_{most}"
    pl.DataFrame(rows, infer_schema_length=None).sort("time_ms").write_parquet(work / f"{name}.parquet")
    spec = yaml.safe_load((work / "ranking.yaml").read_text())
    spec["dataset"] = {key: spec["dataset"][key] for key in ("items", "users", "more_events")}
    spec["dataset"]["requests"] = {"path": f"{name}.parquet", "user": "user_id", "candidates": "videos"}
    spec["dataset"]["requests"] |= {"time": {"column": "time_ms", "unit": "ms"}, "context": ["tab"]}
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def _request(own: pl.DataFrame, live: npt.NDArray[Any], candidates: int, rng: np.random.Generator) -> Plain:
    """A user's day as a row with lists; videos that were not shown to the user have no label."""
    seen = own["video_id"].to_list()
    others = live[~np.isin(live, seen)]
    more = rng.choice(others, min(max(candidates - len(seen), 0), len(others)), replace=False).tolist()
    labels = {name: [*map(float, own[name].to_list()), *[None] * len(more)] for name in LABELS}
    first = own.row(0, named=True)
    at = first["time_ms"] - first["time_ms"] % HOUR_MS  # so that counters are built once an hour, not once a request
    return {"user_id": first["user_id"], "time_ms": at, "tab": first["tab"], "videos": seen + more} | labels


@dataclass(frozen=True, eq=False)
class Slates:
    """The requests of a spec, encoded as of their times from the log of the recipe, and the model at full depth."""

    artifact: Artifact
    raw: RawDataset
    held_out: HeldOut
    full: FullDepth

    @classmethod
    def load(cls, spec_path: Path, artifact: Path, log: EventLog) -> Slates:
        """Nothing is imported: what the users saw is in the log already."""
        spec, loaded = Spec.load(spec_path), ready_artifact(artifact)
        raw = load_dataset(spec)
        served = replace_data(loaded.spec, spec)
        counters = Counters.rebuild(served, log, raw.items, raw.users)
        examples = load_examples(spec, raw)
        held_out = HeldOut(served, examples, loaded.encoder, log, counters, raw.items, raw.users)
        return cls(loaded, raw, held_out, FullDepth(served, loaded.model, loaded.encoder, raw.items))

    def requests(self, split: str, most: int) -> list[OneRequest]:
        """At most ``most`` requests of a split."""
        loader, _ = self.held_out.requests(split, most)
        return list(self.full.prepared(loader.epoch(0)))


def replayed_slates(slates: Slates, log: EventLog, most: int) -> ReplayedArtifact:
    """Requests of both days at full depth, and the policy fitted on the first, with costs as the engine has them."""
    requests = {split: slates.requests(split, most) for split in DAYS}
    both = {split: replay(slates.full, own, top=TOP) for split, own in requests.items()}
    own = slates.artifact.adaptive
    assert own is not None, "training fits a policy, whatever its requests"
    timed = thinned_requests(requests["validation"], TIMED_REQUESTS)
    ranker = _ranker(slates, slates.artifact, log)
    engine_costs(ranker, timed, slates.raw.items)
    costs = ranker.generation.costs.model()
    policy: AdaptivePolicy = fit_policy(both["validation"], costs, made_for=own.made_for, most=own.most)
    artifact = replace(slates.artifact, adaptive=policy)
    served, some = _ranker(slates, artifact, log), thinned_requests(requests["test"], ENGINE_REQUESTS)
    timing = engine_timings(served, some, slates.raw.items, costs.rates())
    return ReplayedArtifact(artifact, policy, both["validation"], both["test"], costs.rates(), some, slates.raw, timing)


def _ranker(slates: Slates, artifact: Artifact, log: EventLog) -> PlannedRanker:
    ranker = PlannedRanker(artifact, log, monotonic_s=thread_clock())
    ranker.generation.counters = slates.held_out.counters
    ranker.warm()
    return ranker


def full_over_router(days: Slates, split: str = "test") -> dict[str, Interval]:
    """NDCG@10 of full depth minus the router's, by task, over the candidates that users were shown."""
    users, gains = list[str](), list[list[float]]()
    tasks = [list(days.held_out.spec.tasks).index(task) for task in GATE_TASKS]
    for one in days.requests(split, 1 << 30):
        value_LN, label_NK = days.full.values(one), one.batch.label
        users.append(one.batch.user[0])
        gains.append([_ndcg(label_NK[:, k], value_LN[-1]) - _ndcg(label_NK[:, k], value_LN[0]) for k in tasks])
    user_R = np.unique(users, return_inverse=True)[1].astype(np.int64)
    gain_RK = np.array(gains)
    return {task: mean_difference(gain_RK[:, k], np.zeros(len(users)), user_R) for k, task in enumerate(GATE_TASKS)}


def _ndcg(label_N: npt.NDArray[np.floating], value_N: Floats) -> float:
    """NDCG@10 of one request; NaN where all labels are the same."""
    hit_N = label_N[np.argsort(-value_N, kind="stable")][:TOP] > 0
    positives = int((label_N > 0).sum())
    if not 0 < positives < len(label_N):
        return float("nan")
    discount = 1 / np.log2(np.arange(TOP) + 2)
    return float((hit_N * discount[: len(hit_N)]).sum() / discount[:positives].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/kuairand"), help="the prepared recipe")
    parser.add_argument("--artifact", type=Path, help="default: artifact0 in it")
    parser.add_argument("--requests", type=int, default=400, help="of each day, at most")
    parser.add_argument("--gate-requests", type=int, default=3_000, help="days on which full depth is judged by labels")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    options = parser.parse_args()
    from depthrank.cli.threads import set_torch_threads

    set_torch_threads(1)
    from depthrank.evaluate.curve import curve_of

    artifact = options.artifact or options.work / "artifact0"
    with open_log(f"lmdb:{options.work}/events", read_only=True) as log:
        days = Slates.load(write_slates(options.work, options.gate_requests, 0), artifact, log)
        gate = full_over_router(days)
        print({task: found.to_plain() for task, found in gate.items()}, flush=True)
        slates = Slates.load(write_slates(options.work, options.requests), artifact, log)
        replayed = replayed_slates(slates, log, options.requests)
    found = curve_of(replayed, timing=replayed.timing)
    figures = {
        "command": shlex.join(["python", *sys.argv]),
        "full_over_router_on_shown": {task: interval.to_plain() for task, interval in gate.items()},
        **found.to_json(),
    }
    for entry in figures["comparisons"]:
        print(json.dumps(entry))
    print(replayed.timing["said"])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if options.html:
        found.write_html(options.html)


if __name__ == "__main__":
    main()
