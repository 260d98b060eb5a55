"""Fuzz: the whole HTTP interface by schemathesis, and every decoder of a body by hypothesis, for as long as you like.

    python benchmarks/fuzz_api.py [--minutes 10] [--only api|decoders] [--json F]

The interface is a real server on a real socket over the tests' ranker without a model. What must hold: no 500, no
status, content type or body that /openapi.json does not describe; a decoder returns a request or raises an error that
is meant for the client; nothing takes longer than 5 s. Ends with exit code 1 and the failing examples otherwise.
"""

# ruff: noqa: E402 - the tests' server is found by the path that is set first
from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / "server"), str(ROOT / "tests" / "schema")]

import msgspec
import schemathesis
from api_fuzz import CHECKS
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from live_server import live_server

from depthrank.errors import RequestError
from depthrank.schema import Limits
from depthrank.schema.wire import (
    MalformedBodyError,
    TooLargeError,
    decode_arrow,
    decode_events,
    decode_msgpack,
    decode_request,
    decode_upsert,
    read_request,
)
from depthrank.schema.wire_json import decode_json
from depthrank.server import ServerSettings
from depthrank.server.access.settings import AccessSettings
from depthrank.server.openapi import openapi_document
from depthrank.server.protocols.oip_request import rank_request
from depthrank.server.protocols.oip_tensors import read_tensors
from depthrank.server.protocols.rerank import rerank_request
from machine_facts import machine_facts, write_json

LIMITS = Limits(max_body_bytes=1 << 20, max_candidates=2_000)
TOLD = (MalformedBodyError, RequestError, TooLargeError)
SLOW_S = 5.0
BATCH = 25  # examples of an operation or a decoder before its turn is over
Failures = list[dict[str, str]]


def rounds(seed_of_run: int) -> Any:
    """hypothesis settings and seed of one turn."""
    chosen = settings(
        max_examples=BATCH, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return lambda test: seed(seed_of_run)(chosen(test))


# --- The interface ---------------------------------------------------------------------------------------------------


def fuzz_api(until_s: float, rng: random.Random, failures: Failures) -> dict[str, Any]:
    """Every operation in turns until the time is over."""
    schema = schemathesis.openapi.from_dict(json.loads(openapi_document()))
    operations = [found.ok() for found in schema.get_all_operations()]
    statuses: Counter[str] = Counter()
    slowest_s = 0.0
    with live_server(settings=ServerSettings(limits=LIMITS, access=AccessSettings(max_connections=64))) as live:
        while time.monotonic() < until_s:
            for operation in operations:
                if time.monotonic() >= until_s:
                    break

                def one(case: schemathesis.Case) -> None:
                    nonlocal slowest_s
                    if "model" in (case.path_parameters or {}) and rng.random() < 0.8:
                        case.path_parameters["model"] = live.ranker.spec.name
                    started = time.monotonic()
                    response = case.call(base_url=live.address)
                    took_s = time.monotonic() - started
                    slowest_s = max(slowest_s, took_s)
                    statuses[f"{response.status_code}"] += 1
                    assert took_s < SLOW_S, f"{took_s:.1f} s"
                    case.validate_response(response, checks=CHECKS)

                run(operation.label, rounds(rng.getrandbits(64))(given(operation.as_strategy())(one)), failures)
        errors = live.metric("depthrank_internal_errors_total")
        if errors:
            failures.append({"where": "server", "what": f"{errors:.0f} answers with status 500"})
    return {
        "requests": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "slowest_s": round(slowest_s, 3),
    }


# --- The decoders ----------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["user", "candidates", "item", "context", "top", "time_ms", "deadline_ms", "budget", "mode", "explain", "action",
     "event_id", "position", "query", "documents", "top_n", "id", "inputs", "outputs", "name", "shape", "datatype",
     "data", "parameters", "binary_data_size", "priority", "model", "return_documents", "text"]
)  # fmt: skip
named = st.recursive(
    json_values | st.integers(0, 4) | st.sampled_from(["BYTES", "INT64", "FP32", "user", "item"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=20,
)
extensions = st.builds(msgspec.msgpack.Ext, st.integers(0, 6), st.binary(max_size=40))


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")  # NaN and Infinity too


def as_msgpack(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):  # a number or a text that MessagePack has no place for
        return b"\xc1"


def about(good: dict[str, Any], values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A good body with none, one or two fields put in the place of others, or beside them."""
    return st.dictionaries(NAMES, values, max_size=2).map(lambda more: {**good, **more})


def damaged(bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Some bytes changed, cut or doubled."""

    def damage(drawn: tuple[bytes, list[tuple[int, int]], int]) -> bytes:
        body, changes, cut = drawn
        out = bytearray(body)
        for at, byte in changes:
            if out:
                out[at % len(out)] = byte
        return bytes(out[: max(0, len(out) - cut)])

    changes = st.lists(st.tuples(st.integers(0, 4_096), st.integers(0, 255)), max_size=8)
    return st.tuples(bodies, changes, st.integers(0, 12)).map(damage)


def arrow_streams() -> st.SearchStrategy[bytes]:
    """Real streams of several columns."""
    import pyarrow as pa

    def stream(drawn: tuple[list[int], Any]) -> bytes:
        ids, beside = drawn
        table = pa.table({
            "item": pa.array(ids, pa.int64()), "bid": pa.array([float(i) for i in ids]),
            "brand": pa.array([str(i % 3) for i in ids]).dictionary_encode(), "tags": pa.array([[str(i)] for i in ids]),
        })  # fmt: skip
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.replace_schema_metadata({"depthrank": as_json(beside)}).schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    return st.tuples(st.lists(st.integers(0, 1_000), max_size=20), st.just({"user": "u"}) | named).map(stream)


def oip(body: bytes, header_length: str | None) -> None:
    header, inputs = read_tensors(body, header_length, LIMITS)
    rank_request(header, inputs, LIMITS, wall_clock=True)


def decoders() -> list[Decoder]:
    """Each decoder with what it is fed."""
    raw = st.binary(max_size=300)
    columns = {"item": msgspec.msgpack.Ext(2, bytes(16)), "bid": msgspec.msgpack.Ext(4, bytes(16))}
    fields = named | extensions | st.dictionaries(NAMES, extensions, max_size=3)
    packed = about({"user": 1, "candidates": columns}, fields).map(as_msgpack)
    packs = packed | damaged(packed) | raw

    def texts(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
        near = about(good, named).map(as_json)
        return near | damaged(near) | named.map(as_json) | raw

    lengths = st.none() | st.integers(-2, 400).map(str) | st.text(max_size=4)
    user = {"name": "user", "datatype": "BYTES", "shape": [1], "data": ["u"]}
    ids = {"name": "item", "datatype": "INT64", "shape": [2], "data": [1, 2]}
    tensor = about(user, named) | about(ids, named)
    heads = st.lists(tensor | named, max_size=3).map(lambda more: as_json({"inputs": [user, *more]}))
    tensors = st.tuples(heads | texts({"inputs": [user, ids]}), raw | st.just(b""), lengths)
    return [
        Decoder("rank, JSON", texts({"user": 1, "candidates": [1, 2]}), lambda body: decode_request(body, LIMITS)),
        Decoder("rank, MessagePack", packs, lambda body: read_request(decode_msgpack(body, LIMITS), LIMITS)),
        Decoder("rank, Arrow", damaged(arrow_streams()) | raw, lambda b: read_request(decode_arrow(b, LIMITS), LIMITS)),
        Decoder(
            "events",
            texts({"user": 1, "item": [1, 2], "action": "click"}),
            lambda body: decode_events(body, LIMITS, 1_700_000_000_000),
        ),
        Decoder("items", texts({"item": [1, 2], "title": ["a", "b"]}), lambda body: decode_upsert(body, LIMITS)),
        Decoder(
            "rerank",
            texts({"query": 1, "documents": [1, 2]}),
            lambda b: rerank_request(decode_json(b, LIMITS), ("m",), LIMITS, wall_clock=True),
        ),
        Decoder("inference", tensors, lambda drawn: oip(drawn[0] + drawn[1], drawn[2])),
    ]


class Decoder:
    """One decoder under fuzz: how much it was fed, how much of that was good, and how long the slowest took."""

    def __init__(self, name: str, fed: st.SearchStrategy[Any], decode: Callable[[Any], object]) -> None:
        self.name, self.strategy, self.decode = name, fed, decode
        self.fed = self.accepted = 0
        self.slowest_s = 0.0

    def turn(self, seed_of_turn: int, failures: Failures) -> None:
        run(self.name, rounds(seed_of_turn)(given(self.strategy)(self._one)), failures)

    def _one(self, body: Any) -> None:
        started = time.monotonic()
        self.fed += 1
        with suppress(*TOLD):
            self.decode(body)
            self.accepted += 1
        took_s = time.monotonic() - started
        self.slowest_s = max(self.slowest_s, took_s)
        assert took_s < SLOW_S, f"{took_s:.1f} s"


def fuzz_decoders(until_s: float, rng: random.Random, failures: Failures) -> dict[str, Any]:
    """Every decoder in turns until the time is over."""
    table = decoders()
    while time.monotonic() < until_s:
        for decoder in table:
            decoder.turn(rng.getrandbits(64), failures)
    bodies, accepted = {d.name: d.fed for d in table}, {d.name: d.accepted for d in table}
    return {"bodies": bodies, "accepted": accepted, "slowest_s": round(max(d.slowest_s for d in table), 3)}


def run(where: str, test: Callable[[], object], failures: Failures) -> None:
    """One turn; a failure is noted, and the others go on."""
    try:
        test()
    except Exception:  # noqa: BLE001 - whatever it is, it is a finding
        failures.append({"where": where, "what": traceback.format_exc(limit=-8)[-4_000:]})
        print(f"FAILED: {where}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of each part")
    parser.add_argument("--only", choices=("api", "decoders"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng, failures, result = random.Random(arguments.seed), Failures(), dict[str, Any]()
    for part, fuzz in (("api", fuzz_api), ("decoders", fuzz_decoders)):
        if arguments.only in (None, part):
            result[part] = fuzz(time.monotonic() + 60 * arguments.minutes, rng, failures)
            print(part, json.dumps(result[part]), flush=True)
    distinct = {failure["where"]: failure for failure in failures}
    for failure in distinct.values():
        print(f"\n{failure['where']}:\n{failure['what']}")
    facts = machine_facts("depthrank", "schemathesis", "hypothesis", "msgspec", "pyarrow")
    if arguments.json:
        kept = {"machine": facts, "minutes_each": arguments.minutes, **result, "failures": list(distinct.values())}
        write_json(arguments.json, kept)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
