"""What a rank request costs beside the model, by the form of its body: JSON, MessagePack, Arrow.

    python benchmarks/bench_bodies.py [--quick] [--json F]

One world, one model, 2,000 candidates with two columns, mode ``router`` (the cheapest answer, so that everything else
shows), one thread. For every form, interleaved in one process and on one connection:

- in process: decode, every stage of ``Ranker.rank`` that is not the model, encode; their sum is "not model";
- over HTTP: the wall time on a connection that is kept, less decode + rank + encode in process: the overhead of HTTP;
- core-seconds for 1,000 requests: of this process from decode to encode, and of all threads of the server from one
  request to the next, so with what it does behind an answer (mean; shown impressions are logged in batches).

The server has the first of the cores that this may use, and whatever runs in process the last one: where there are two,
neither finds its caches filled with what the other did.

The issue asks for an overhead of HTTP of less than 1 ms (p50) with columnar candidates, and for less than 1 ms (p50) of
"not model". JSON with texts as ids is what a client without any care sends.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from machine_facts import machine_facts, show_facts, write_json
from served_artifact_client import KeepAliveClient, serving

PACKAGES = ("depthrank", "numpy", "msgspec", "pyarrow", "starlette", "uvicorn", "httptools")
MODEL_STAGES = ("user", "level0", "total")
JSON, MSGPACK, ARROW = "application/json", "application/msgpack", "application/vnd.apache.arrow.stream"
WARM_UP = 30


def forms(plain: dict[str, Any]) -> dict[str, tuple[str, bytes]]:
    """Form -> media type and body of one request; the ids are integers."""
    import pyarrow as pa

    columns = plain["candidates"]
    ids = np.array([int(i) for i in columns["item"]], "<i8")
    numbers = {name: np.array(values, "<f8") for name, values in columns.items() if name != "item"}
    beside = {name: value for name, value in plain.items() if name != "candidates"}
    packed = {"item": msgspec.msgpack.Ext(2, ids.tobytes())}
    packed |= {name: msgspec.msgpack.Ext(4, values.tobytes()) for name, values in numbers.items()}
    table = pa.table({"item": ids, **numbers}).replace_schema_metadata({"depthrank": json.dumps(beside)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    texts = {**plain, "candidates": {**columns, "item": [str(i) for i in columns["item"]]}}
    integers = {**plain, "candidates": {**columns, "item": ids.tolist()}}
    return {
        "json, texts": (JSON, msgspec.json.encode(texts)),
        "json, integers": (JSON, msgspec.json.encode(integers)),
        "msgpack, lists": (MSGPACK, msgspec.msgpack.encode(integers)),
        "msgpack, columns": (MSGPACK, msgspec.msgpack.encode({**beside, "candidates": packed})),
        "arrow": (ARROW, sink.getvalue().to_pybytes()),
    }


# --- One world -------------------------------------------------------------------------------------------------------


def make_world(folder: Path, preset: str) -> None:
    """The synthetic world with integer ids, its model trained for one short epoch, in a process of its own."""
    import polars as pl

    from depthrank.training import train
    from synthetic_world import request_bodies, write_world

    spec = write_world(folder, preset)
    for name, column in (("items", "item"), ("events", "item"), ("requests", "items")):
        file = folder / f"{name}.parquet"
        table = pl.read_parquet(file)
        bare = pl.col(column).str.replace("item-", "")
        if table.schema[column] == pl.List(pl.String):
            bare = pl.col(column).list.eval(pl.element().str.replace("item-", ""))
        table.with_columns(bare).write_parquet(file)
    train(spec, log=f"lmdb:{folder / 'events'}", out=folder / "artifact", progress=False, minutes=0.2)
    bodies = []
    for body in request_bodies(10):
        body["candidates"]["item"] = [i.removeprefix("item-") for i in body["candidates"]["item"]]
        bodies.append(msgspec.json.encode({**body, "mode": "router"}))
    (folder / "bodies.jsonl").write_bytes(b"\n".join(bodies))


# --- Measuring -------------------------------------------------------------------------------------------------------


def measure(world: Path, requests: int) -> dict[str, Any]:
    """Milliseconds of every stage, form by form in turns."""
    from depthrank.cli.threads import set_torch_threads
    from depthrank.engine import Ranker
    from depthrank.schema import Limits
    from depthrank.schema.wire import decode_arrow, decode_msgpack, decode_request, encode_answer, read_request

    set_torch_threads(1)
    limits, url = Limits(), f"lmdb:{world / 'events'}"
    plain = [msgspec.json.decode(line) for line in (world / "bodies.jsonl").read_bytes().splitlines()]
    bodies = [forms(body) for body in plain]
    decoders: dict[str, Callable[[bytes], Any]] = {
        JSON: lambda body: decode_request(body, limits),
        MSGPACK: lambda body: read_request(decode_msgpack(body, limits), limits),
        ARROW: lambda body: read_request(decode_arrow(body, limits), limits),
    }
    ranker = Ranker.load(world / "artifact", log=url)
    ranker.warm()
    inside: dict[str, dict[str, list[float]]] = {form: {} for form in bodies[0]}
    http: dict[str, dict[str, list[float]]] = {form: {} for form in bodies[0]}
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    with serving(str(world / "artifact"), url, 1) as address:
        os.sched_setaffinity(0, cores[-1:])
        client, server_cpu_ms = KeepAliveClient(address), ServerCpu(os.getpid())
        for number in range(-WARM_UP, requests):
            for form, (kind, body) in bodies[number % len(bodies)].items():
                stages = in_process(ranker, decoders[kind], encode_answer, body)
                over = over_http(client, kind, body, server_cpu_ms)
                if number >= 0:
                    for target, found in ((inside[form], stages), (http[form], over)):
                        for name, ms in found.items():
                            target.setdefault(name, []).append(ms)
    ranker.close()
    sizes = {form: len(body) for form, (_, body) in bodies[0].items()}
    names = list(inside)  # what the server took is told with the request after it
    server_ms = {form: float(np.mean(http[names[k - len(names) + 1]]["cpu before"])) for k, form in enumerate(names)}
    return {
        form: summary(inside[form], http[form])
        | {"server_core_s_per_1000": round(server_ms[form], 3), "body_bytes": sizes[form]}
        for form in inside
    }


def in_process(ranker: Any, decode: Any, encode: Any, body: bytes) -> dict[str, float]:
    cpu_s = time.process_time()
    started = time.perf_counter()
    request = decode(body)
    decoded = time.perf_counter()
    answer = ranker.rank(request, checked=True)
    ranked = time.perf_counter()
    encode(answer)
    done = time.perf_counter()
    cpu_ms = 1e3 * (time.process_time() - cpu_s)
    stages = {name: ms for name, ms in answer.timings_ms.items() if name not in MODEL_STAGES}
    model = sum(answer.timings_ms.get(name, 0.0) for name in MODEL_STAGES if name != "total")
    decode_ms, rank_ms, encode_ms = 1e3 * (decoded - started), 1e3 * (ranked - decoded), 1e3 * (done - ranked)
    rest = rank_ms - model - sum(stages.values())
    return {
        "decode": decode_ms, **stages, "rest of rank": rest, "encode": encode_ms, "model": model,
        "not model": decode_ms + rank_ms - model + encode_ms, "in process": 1e3 * (done - started), "cpu": cpu_ms,
    }  # fmt: skip


class ServerCpu:
    """Milliseconds of processor time of all threads of the only child process, since the last call."""

    def __init__(self, parent: int) -> None:
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        self._tasks, self._last_ms = Path(f"/proc/{child}/task"), 0.0

    def __call__(self) -> float:
        now_ms = sum(int((task / "schedstat").read_text().split()[0]) for task in self._tasks.iterdir()) / 1e6
        passed_ms, self._last_ms = now_ms - self._last_ms, now_ms
        return passed_ms


def over_http(client: KeepAliveClient, kind: str, body: bytes, server_cpu_ms: ServerCpu) -> dict[str, float]:
    """Wall time, how long the request waited for a thread by the server's own clock, and what the server took since the
    request before, which was of the form before."""
    before_ms = server_cpu_ms()
    started = time.perf_counter()
    text = client.ask("POST", "/v1/rank", body, kind)
    wall = 1e3 * (time.perf_counter() - started)
    told = msgspec.json.decode(text)["timings_ms"]
    return {"wall": wall, "wait": told.get("wait", 0.0), "cpu before": before_ms}


def summary(inside: dict[str, list[float]], http: dict[str, list[float]]) -> dict[str, Any]:
    """p50 of everything, p99 of the sums."""
    p50 = {name: round(float(np.median(ms)), 4) for name, ms in inside.items() if name != "cpu"}
    return {
        "in_process_ms": p50,
        "in_process_core_s_per_1000": round(float(np.mean(inside["cpu"])), 3),
        "not_model_p99_ms": round(float(np.percentile(inside["not model"], 99)), 4),
        "http_wall_p50_ms": round(float(np.median(http["wall"])), 4),
        "wall_less_in_process_p50_ms": round(float(np.median(http["wall"]) - np.median(inside["in process"])), 4),
    }


# --- Table -----------------------------------------------------------------------------------------------------------


def show(result: dict[str, Any]) -> None:
    """A row a form."""
    names = ("decode", "candidates", "history", "features", "order", "rest of rank", "encode", "not model", "model")
    print(f"\n{'p50, ms':18}" + "".join(f"{name:>14}" for name in (*names, "HTTP adds", "core s/1000", "bytes")))
    for form, found in result.items():
        cells = [f"{found['in_process_ms'].get(name, 0.0):.3f}" for name in names]
        cells += [f"{found['wall_less_in_process_p50_ms']:.3f}", f"{found['server_core_s_per_1000']:.2f}"]
        cells += [f"{found['body_bytes']:,}"]
        print(f"{form:18}" + "".join(f"{cell:>14}" for cell in cells))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="a folder that an earlier run made (default: a temporary one)")
    parser.add_argument("--preset", default="demo", help="size of the model; what is measured hardly depends on it")
    parser.add_argument("--requests", type=int, help="measured requests of a form (default 300, quick 20)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.requests = arguments.requests or (20 if arguments.quick else 300)
    return arguments


def main() -> None:
    arguments = parse()
    facts = machine_facts(*PACKAGES)
    show_facts(facts)
    with tempfile.TemporaryDirectory() as folder:
        world = arguments.world or Path(folder)
        if not (world / "artifact" / "manifest.json").is_file():
            world.mkdir(parents=True, exist_ok=True)
            make = f"from pathlib import Path; import bench_bodies; bench_bodies.make_world(Path({str(world)!r}), "
            command = [sys.executable, "-c", make + f"{arguments.preset!r})"]
            subprocess.run(command, check=True, cwd=Path(__file__).parent, env=os.environ | {"OMP_NUM_THREADS": "2"})
        result = measure(world, arguments.requests)
    show(result)
    if arguments.json:
        write_json(arguments.json, {"machine": facts, "forms": result})


if __name__ == "__main__":
    main()
