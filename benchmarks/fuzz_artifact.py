"""Fuzz: damaged artifacts, for as long as you like. None may crash the process, run code or hang.

    python benchmarks/fuzz_artifact.py [--minutes 10] [--json F]

A small artifact is saved; of one of its files some bytes are changed, cut, doubled or put in the place of others, and
the checksums are made to fit again in every second case, as a hostile maker would, so that the parsers themselves see
the damage. It must load, and then rank, or raise one ``ArtifactError``. Each turn runs in a process of its own: one
that ends by a signal is a finding too.
"""

# ruff: noqa: E402 - the tests' artifact is found by the path that is set first
from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / "artifact")]

import msgspec
from small_artifact import make_contents

from depthrank.artifact import load_artifact, read_manifest, save_artifact
from depthrank.artifact.manifest import Manifest, hash_file
from depthrank.engine import Ranker
from depthrank.errors import ArtifactError
from depthrank.events import open_log
from depthrank.schema import Request
from machine_facts import machine_facts, write_json

SLOW_S = 10.0
CASES_A_TURN = 200
TURN_S = 900.0


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut, doubled or exchanged; most of it near the head, where formats keep their lengths."""
    out = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        near = min(len(out), 600) if rng.random() < 0.7 else len(out)
        at, kind = rng.randrange(max(near, 1)), rng.randrange(5)
        if kind < 3 and out:
            out[at] = rng.choice((0, 255, 127, 128, out[at] ^ (1 << rng.randrange(8)), rng.randrange(256)))
        elif kind == 3:
            del out[at : at + rng.choice((1, 4, 8, 64, len(out)))]
        else:
            out[at:at] = out[at : at + rng.choice((1, 8, 64))]
    return bytes(out)


def reseal(root: Path) -> None:
    """Checksums that fit the damage."""
    manifest = msgspec.json.decode((root / "manifest.json").read_bytes(), type=Manifest)
    folder = root / manifest.folder
    files = {name: hash_file(folder / name) for name in manifest.files}
    sealed = msgspec.structs.replace(manifest, files=files).sealed()
    (root / "manifest.json").write_bytes(msgspec.json.encode(sealed))


def one(root: Path, log: Path, rng: random.Random) -> str:
    """One damaged copy: what became of it."""
    manifest = read_manifest(root)
    names = ["manifest.json", *(f"{manifest.folder}/{name}" for name in manifest.files)]
    path = root / rng.choice(names)
    path.write_bytes(damaged(path.read_bytes(), rng))
    if path.name != "manifest.json" and rng.random() < 0.5:
        reseal(root)
    try:
        artifact = load_artifact(root, verify="all")
    except ArtifactError:
        return "refused"
    with open_log(f"lmdb:{log}") as events:
        Ranker(artifact, events).rank(Request(user="u", candidates=["a", "b", "nobody"], context={"device": "ios"}))
    return "loaded and ranked"


def turn(seed: int, found: multiprocessing.Queue[tuple[str, str]]) -> None:
    """Some cases, each told as (what became of it, the failure)."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        good = Path(place) / "good"
        save_artifact(good, make_contents(seed % 5))
        for number in range(CASES_A_TURN):
            bad = Path(place) / "bad"
            shutil.copytree(good, bad)
            started_s = time.process_time()
            try:
                told = one(bad, Path(place) / "events", rng), ""
            except Exception:  # noqa: BLE001 - whatever it is, it is a finding
                told = "FAILED", f"seed {seed}, case {number}\n{traceback.format_exc(limit=-8)[-4_000:]}"
            took_s = time.process_time() - started_s
            if took_s > SLOW_S:
                told = "FAILED", f"seed {seed}, case {number}: {took_s:.1f} CPU-seconds"
            found.put(told)
            shutil.rmtree(bad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    until_s, seeds = time.monotonic() + 60 * arguments.minutes, random.Random(arguments.seed)
    counts, failures = Counter[str](), dict[str, str]()
    fresh = multiprocessing.get_context("fork")
    while time.monotonic() < until_s:
        found: multiprocessing.Queue[tuple[str, str]] = fresh.Queue()
        seed = seeds.getrandbits(32)
        child = fresh.Process(target=turn, args=(seed, found))
        child.start()
        ended_s = time.monotonic() + TURN_S
        while (child.is_alive() and time.monotonic() < ended_s) or not found.empty():
            if found.empty():
                time.sleep(0.05)
                continue
            what, failure = found.get()
            counts[what] += 1
            if failure:
                failures[failure.strip().rpartition("\n")[2][:200]] = failure
        if child.is_alive():
            child.kill()
            failures["a turn hung"] = f"seed {seed}"
        child.join()
        if child.exitcode not in (0, -9):
            failures[f"ended with code {child.exitcode}"] = f"seed {seed}"
    print(dict(counts), f"{len(failures)} distinct failures")
    for failure in failures.values():
        print(f"\n{failure}")
    if arguments.json:
        result = {"minutes": arguments.minutes, "artifacts": dict(counts), "failures": list(failures.values())}
        write_json(arguments.json, {"machine": machine_facts("depthrank", "torch", "safetensors"), **result})
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
