"""What does a delta of 1 % of the rows cost the requests that run while it arrives?

    python benchmarks/bench_delta.py [--rows 2000000] [--seconds 20] [--share 0.01] [--load 0.4] [--json F]

One ranker in this process, requests at fixed times at a share of its capacity, one thread; three runs of one load in
turn: twice nothing happens (the band of identical runs), once a delta of ``share`` of the rows of both tables is
verified, prepared and published a third into the run, and compacted after two thirds, in a thread beside it. Latency
counts from when a request was due. Every answer must be that of the model it names, bit for bit where its state was
encoded whole; the request after publication must be answered by the new one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts, show_facts, torch_facts, write_json

CANDIDATES = 500
USERS = 40


def changed_artifact(base: Path, out: Path, share: float) -> None:
    """The base with ``share`` of the rows of its item and request tables changed."""
    import torch

    from depthrank.artifact import Contents, load_artifact, save_artifact
    from depthrank.artifact.delta_apply import with_tables
    from depthrank.tables import PackedRows, served_tables

    artifact, sources = load_artifact(base), {}
    generator = torch.Generator().manual_seed(1)
    for name, table in served_tables(artifact.model).items():
        packed = table.source.packed_VB.clone()
        rows = torch.randperm(packed.shape[0], generator=generator)[: int(packed.shape[0] * share)]
        rows = rows[~torch.isin(rows, table.row_map.padding_rows())]
        packed[rows] += 0.1
        sources[name] = PackedRows(packed, table.source.form, table.width)
    a = replace(artifact, model=with_tables(artifact.model, sources))
    save_artifact(out, Contents(a.spec, a.model, a.encoder, a.items, a.users, a.manifest.log_position))


class Load:
    """Requests due at fixed times; ``during`` runs beside them from the first third on."""

    def __init__(self, ranker: Any, seconds: float, rate: float, seed: int) -> None:
        from depthrank.schema import Request

        rng = np.random.default_rng(seed)
        self.ranker, self.seconds = ranker, seconds
        self.due_s = np.cumsum(rng.exponential(1 / rate, int(seconds * rate)))
        words = [f"word{k}" for k in range(500)]
        self.asked = [
            Request(
                user=f"u{user}",
                candidates=[f"i{k}" for k in np.random.default_rng(user).integers(0, 20_000, CANDIDATES)],
                context={"query": " ".join(words[user : user + 3])},
                mode="full",
                time_ms=10_000,
            )
            for user in range(USERS)
        ]
        self.order = rng.integers(0, USERS, self.due_s.size)

    def run(self, during: Any = None) -> tuple[np.ndarray, list[Any], int]:
        """(milliseconds from due to answered, answers, errors)."""
        took, answers, errors = [], [], 0
        thread = threading.Thread(target=during) if during else None
        started = time.perf_counter()
        for due, which in zip(self.due_s, self.order, strict=True):
            now = time.perf_counter() - started
            if thread is not None and thread.ident is None and now > self.seconds / 3:
                thread.start()
            if now < due:
                time.sleep(due - now)
            try:
                answers.append((int(which), self.ranker.rank(self.asked[which])))
            except Exception as error:  # noqa: BLE001 - counted and shown: the claim is that there is none
                print("error", error)
                errors += 1
            took.append((time.perf_counter() - started - due) * 1e3)
        if thread is not None:
            thread.join()
        return np.array(took), answers, errors


def measure(folder: Path, rows: int, seconds: float, share: float, load: float) -> dict[str, Any]:
    from depthrank.artifact import Cache, make_delta, read_delta
    from depthrank.engine import Ranker
    from depthrank.events import open_log
    from synthetic_artifact import write_artifact

    sizes: dict[str, Any] = {"item_rows": rows, "request_rows": rows, "items": 20_000, "width": 32}
    write_artifact(folder / "base", **sizes)
    changed_artifact(folder / "base", folder / "new", share)
    started = time.perf_counter()
    delta = make_delta(folder / "base", folder / "new", folder / "deltas")
    made_s = time.perf_counter() - started
    with open_log(f"lmdb:{folder / 'events'}") as log:
        ranker, new = Ranker.load(folder / "base", log), Ranker.load(folder / "new", log)
        ranker.warm()
        probe = Load(ranker, 1.0, 100.0, 0)
        took_s = sorted(timed(ranker, request) for request in probe.asked)[len(probe.asked) // 2]
        rate = load / took_s
        expected = [{shown(r.rank(q)) for r in (one,)} for one in (ranker, new) for q in probe.asked]
        old_answers, new_answers = expected[:USERS], expected[USERS:]
        report: dict[str, Any] = {}

        def publish() -> None:
            # A thread that gives way: the requests have the core when they want it.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            told = ranker.apply_delta(delta)
            report.update(told.__dict__)
            report["next"] = ranker.rank(probe.asked[0]).model == ranker.model_id
            started = time.perf_counter()
            ranker.compact(Cache(folder / "cache"))
            report["compact_s"] = time.perf_counter() - started

        runs, wrong = {}, 0
        for name, during in (("quiet 1", None), ("quiet 2", None), ("delta", publish)):
            took, answers, errors = Load(ranker, seconds, rate, 7).run(during)
            for which, answer in answers:
                known = new_answers[which] if "+" in answer.model else old_answers[which]
                wrong += not close(shown(answer), next(iter(known)))
            runs[name] = {
                "p50_ms": pct(took, 50),
                "p99_ms": pct(took, 99),
                "most_ms": float(took.max()),
                "errors": errors,
            }
            runs[name]["requests"] = len(took)
    band = [runs["quiet 1"]["p99_ms"], runs["quiet 2"]["p99_ms"]]
    return {
        "rows": sum(t.rows for t in read_delta(delta).tables.values()),
        "delta_bytes": sum(f.bytes for f in read_delta(delta).files.values()),
        "make_s": made_s,
        "rate": rate,
        "runs": runs,
        "p99_over_band": runs["delta"]["p99_ms"] / max(band),
        "band": max(band) / min(band),
        "wrong_answers": wrong,
        "publication": report,
    }


def timed(ranker: Any, request: Any) -> float:
    started = time.perf_counter()
    ranker.rank(request)
    return time.perf_counter() - started


def shown(answer: Any) -> tuple[tuple[str, float], ...]:
    return tuple((item.item, item.value) for item in answer.items)


def close(one: tuple[tuple[str, float], ...], other: tuple[tuple[str, float], ...]) -> bool:
    same = sorted(v for _, v in one), sorted(v for _, v in other)
    return bool(np.allclose(*same, rtol=1e-4))


def pct(values: np.ndarray, q: float) -> float:
    return float(np.percentile(values, q))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--load", type=float, default=0.4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    set_torch_threads(1)
    facts = {**machine_facts("torch", "depthrank"), **torch_facts()}
    show_facts(facts)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.rows, options.seconds, options.share, options.load)
    for name, run in found["runs"].items():
        print(f"{name:8s}", "  ".join(f"{k} {v:.2f}" for k, v in run.items()))
    print(f"{found['rows']:,} rows, {found['delta_bytes'] / 1e6:.1f} MB; publication {found['publication']}")
    print(
        f"p99 with the delta: {found['p99_over_band']:.2f} of the worse quiet run (two of them: {found['band']:.2f}); "
        f"{found['wrong_answers']} wrong answers"
    )
    if options.json is not None:
        write_json(options.json, {"machine": facts, **found})


if __name__ == "__main__":
    main()
