"""tritonclient ranks without any code of ours, with tensors as JSON and as bytes; errors have the protocol's shape."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from live_server import Live, live_server
from ranker_double import RankerDouble
from tritonclient.utils import InferenceServerException

from depthrank.errors import RequestError
from depthrank.schema import Limits
from depthrank.schema.wire import MalformedBodyError, TooLargeError
from depthrank.server.protocols.oip_tensors import DTYPES, Tensor, read_tensors, write_tensors

MODEL = "double"
IDS = ["5", "3", "9", "1"]


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(f"127.0.0.1:{live.port}")
    yield made
    made.close()


def tensor(name: str, values: Any, datatype: str, binary: bool) -> triton.InferInput:
    array = np.array(values, dtype=object if datatype == "BYTES" else DTYPES[datatype])
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def inputs(binary: bool, items: Any = IDS, datatype: str = "BYTES", **more: Any) -> list[triton.InferInput]:
    return [
        tensor("user", ["u"], "BYTES", binary),
        tensor("item", items, datatype, binary),
        *(tensor(name, values, kind, binary) for name, (values, kind) in more.items()),
    ]


def test_the_server_and_its_model_describe_themselves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "double")
    assert not client.is_model_ready("another") and not client.is_model_ready(MODEL, "7")
    told = client.get_model_metadata(MODEL)
    assert told["name"] == MODEL and told["versions"] == ["double"]
    assert {"name": "item", "datatype": "BYTES", "shape": [-1]} in told["inputs"]
    assert [o["name"] for o in told["outputs"]] == ["item", "value", "level", "index", "click", "like"]


@pytest.mark.parametrize("binary", [True, False])
def test_tensors_rank_as_the_same_request_in_json(live: Live, client: Any, binary: bool) -> None:
    plain = live.client.post("/v1/rank", json={"user": "u", "candidates": IDS, "top": 3}).json()
    outputs = [triton.InferRequestedOutput(n, binary_data=binary) for n in ("item", "value", "level", "click", "like")]
    result = client.infer(MODEL, inputs(binary, top=([3], "INT64")), outputs=outputs, request_id="mine")
    ranked = [item.decode() if isinstance(item, bytes) else item for item in result.as_numpy("item").tolist()]
    assert ranked == [item["item"] for item in plain["items"]]
    assert result.as_numpy("value").tolist() == [item["value"] for item in plain["items"]]
    assert result.as_numpy("click").tolist() == [item["scores"]["click"] for item in plain["items"]]
    assert result.as_numpy("level").dtype == np.int32
    told = result.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("mine", MODEL, "double")
    assert told["parameters"]["degraded"] is False


@pytest.mark.parametrize("binary", [True, False])
def test_every_field_of_a_request_has_its_tensor(live: Live, client: Any, binary: bool) -> None:
    more = {
        "top": ([2], "INT32"),
        "mode": (["router"], "BYTES"),
        "budget": ([0.5], "FP64"),
        "time_ms": ([1_700_000_000_000], "INT64"),
        "context.device": (["ios"], "BYTES"),
        "context.place": ([0.5, 1.5], "FP32"),
        "bid": ([0.5, 0.25], "FP32"),
        "tags": ([["a", "b"], ["c", "d"]], "BYTES"),
        "new": ([True, False], "BOOL"),
    }
    client.infer(MODEL, inputs(binary, [5, 3], "INT64", **more), model_version="double", timeout=2_000_000, priority=1)
    asked = live.ranker.ranked[-1]
    assert (asked.user, asked.top, asked.mode, asked.budget, asked.priority) == ("u", 2, "router", 0.5, "high")
    assert 0 < asked.deadline_ms <= 2000  # the server's own time is taken off
    assert asked.context == {"device": "ios", "place": [0.5, 1.5]}
    assert asked.candidates["item"].tolist() == [5, 3]
    assert isinstance(asked.candidates["bid"], np.ndarray)
    assert asked.candidates["tags"] == [["a", "b"], ["c", "d"]]
    assert asked.candidates["new"] == [True, False]


def test_without_items_the_whole_catalogue_is_ranked(live: Live, client: Any) -> None:
    result = client.infer(MODEL, [tensor("user", [7], "INT64", True)])
    assert len(result.as_numpy("item")) == 10
    assert live.ranker.ranked[-1].candidates == "all" and live.ranker.ranked[-1].user == "7"


@pytest.mark.parametrize(
    ("given", "outputs", "words"),
    [
        ([tensor("item", ["1"], "BYTES", True)], None, "user"),
        ([tensor("user", ["a", "b"], "BYTES", True)], None, "one value"),
        (inputs(True, ["1"], top=([0], "INT64")), None, "top"),
        (inputs(True, ["1"], bid=([1.0, 2.0], "FP32")), None, "bid"),
        ([tensor("user", ["a"], "BYTES", True), tensor("bid", [1.0], "FP32", True)], None, "item"),
        (inputs(True, [2**64 - 1], "UINT64"), None, "64"),
        (inputs(True, [1.5], "FP32"), None, "ids"),
        (inputs(True), ["valeu"], "did you mean 'value'"),
    ],
)
def test_what_is_wrong_is_told_in_the_shape_of_the_protocol(
    client: Any, given: list[Any], outputs: list[str] | None, words: str
) -> None:
    wanted = None if outputs is None else [triton.InferRequestedOutput(name) for name in outputs]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, given, outputs=wanted)
    assert words in caught.value.message()
    assert caught.value.status() == "422"


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("/v2/models/none/infer", b"{}", {}, 404, "no model"),
        ("/v2/models/double/versions/7/infer", b"{}", {}, 404, "version"),
        ("/v2/models/double/infer", b"{", {}, 400, "not JSON"),
        ("/v2/models/double/infer", b"{}", {}, 422, "$.inputs"),
        ("/v2/models/double/infer", b"{}", {"Inference-Header-Content-Length": "3"}, 400, "within the body"),
        ("/v2/models/double/infer", b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "within the body"),
        ("/v2/models/double/infer", b"{}x", {"Inference-Header-Content-Length": "2"}, 422, "$.inputs"),
        ("/v2/nothing", b"{}", {}, 404, "nothing at"),
    ],
)
def test_errors_are_one_text(
    live: Live, path: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    refused = live.client.post(path, content=body, headers=headers)
    assert refused.status_code == status
    assert refused.json().keys() == {"error"}
    assert words in refused.json()["error"]


def test_a_failure_inside_is_told_in_that_shape_too() -> None:
    ranker = RankerDouble()
    ranker.rank_fault = lambda: 1 / 0  # type: ignore[assignment, return-value]
    with live_server(ranker) as live:
        body = {"inputs": [{"name": "user", "shape": [1], "datatype": "BYTES", "data": ["u"]}]}
        refused = live.client.post("/v2/models/double/infer", json=body)
        assert refused.status_code == 500
        assert isinstance(refused.json()["error"], str) and "Zero" not in refused.text


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.sampled_from(sorted(DTYPES)).flatmap(
            lambda d: st.lists(
                st.booleans() if d == "BOOL" else st.integers(0, 100) if "INT" in d else st.floats(-100, 100, width=16),
                max_size=5,
            ).map(lambda v: Tensor(d, (len(v),), np.array(v, DTYPES[d])))
        )
        | st.lists(st.text(max_size=5), max_size=5).map(lambda v: Tensor("BYTES", (len(v),), v)),
        max_size=4,
    ),
    st.booleans(),
)
def test_tensors_that_are_written_are_read_again(tensors: dict[str, Tensor], binary: bool) -> None:
    body, length = write_tensors({}, tensors, frozenset(tensors if binary else ()))
    header = json.loads(body[:length])
    as_request = json.dumps({"inputs": header["outputs"]}).encode()
    _, found = read_tensors(as_request + body[length:], str(len(as_request)), Limits())
    assert {name: list(t.values) for name, t in found.items()} == {name: list(t.values) for name, t in tensors.items()}


def one(**fields: Any) -> bytes:
    given = {"name": "user", "datatype": "BYTES", "shape": [1], "data": ["u"]} | fields
    return json.dumps({"inputs": [{k: v for k, v in given.items() if v is not None}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        one(shape=[2**62, 2**62]),
        one(shape=[-1]),
        one(shape=[True]),
        one(shape=None),
        one(datatype="BF16"),
        one(datatype=None),
        one(data=None),
        one(data=[1]),
        one(datatype="INT8", data=[300]),
        one(datatype="INT8", data=[True]),
        one(datatype="FP32", data=["1"]),
        one(name=7),
        one(parameters=3),
        one(parameters={"binary_data_size": -1}),
        one(parameters={"binary_data_size": 1e9}),
        b'{"inputs": [7]}',
    ],
)
def test_wrong_tensors_name_their_place(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read_tensors(body, str(len(body)), Limits())
    assert caught.value.problems[0].path.startswith("$.inputs[0]")


def test_bytes_that_do_not_add_up_are_refused() -> None:
    def read(data: bytes, size: int) -> None:
        head = one(data=None, parameters={"binary_data_size": size})
        read_tensors(head + data, str(len(head)), Limits())

    read(struct.pack("<I", 1) + b"u", 5)
    for data, size, error in (
        (b"", 5, MalformedBodyError),
        (struct.pack("<I", 1) + b"uu", 5, MalformedBodyError),
        (struct.pack("<I", 2) + b"u", 5, RequestError),
        (struct.pack("<I", 1) + b"\xff", 5, RequestError),
        (b"abc", 3, RequestError),
    ):
        with pytest.raises(error):
            read(data, size)


@given(st.binary(max_size=100), st.integers(0, 120))
def test_whatever_bytes_follow_are_read_or_told(data: bytes, size: int) -> None:
    head = one(data=None, parameters={"binary_data_size": size})
    try:
        read_tensors(head + data, str(len(head)), Limits())
    except (MalformedBodyError, RequestError, TooLargeError) as error:
        assert str(error)


def test_plain_http_needs_no_client_at_all(live: Live) -> None:
    body = {
        "inputs": [{"name": "user", "datatype": "BYTES", "shape": [1], "data": ["u"]}],
        "outputs": [{"name": "item"}],
    }
    told = httpx.post(f"{live.address}/v2/models/double/infer", json=body).json()
    assert [o["name"] for o in told["outputs"]] == ["item"] and len(told["outputs"][0]["data"]) == 10
