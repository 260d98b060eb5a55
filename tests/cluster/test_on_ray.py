"""Shards and engines that are real actors: equal to what is here, degraded while one is dead, whole again after."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from depthrank.artifact import Contents, load_artifact, make_delta, save_artifact
from depthrank.cluster import Circuit
from depthrank.engine import Ranker
from depthrank.errors import ArtifactError
from depthrank.events import open_log
from depthrank.schema import Request
from depthrank.tables import PackedRows, noting_missing_rows, pack_rows, write_row_file

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'depthrank[cluster]'")

from depthrank.cluster.ray_shards import start_shards, with_shards  # noqa: E402
from depthrank.cluster.serve_on_ray import RankerOnRay, RayEngine  # noqa: E402

ROWS, WIDTH = 40, 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray in this process's own session, on one machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=80 << 20,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}},
        )
        yield
        ray.shutdown()


def ask(user: str = "u1") -> Request:
    return Request(user=user, candidates=[f"i{i}" for i in range(20)], top=20, mode="full", context={"device": "ios"})


def shown(answer: Any) -> list[tuple[str, float]]:
    return [(item.item, item.value) for item in answer.items]


def changed(base: Path, out: Path) -> Path:
    """The artifact with other weights."""
    a = load_artifact(base)
    with torch.no_grad():
        for name, weight in a.model.named_parameters():
            if "norm" in name:
                weight.mul_(1.01)
    save_artifact(out, Contents(a.spec, a.model, a.encoder, a.items, a.users, a.manifest.log_position))
    return out


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, PackedRows]:
    packed = pack_rows(torch.randn(ROWS, WIDTH), "int8")
    write_row_file(tmp_path / "t.rows", [packed], "int8", WIDTH, ROWS)
    return tmp_path / "t.rows", PackedRows(packed, "int8", WIDTH)


def test_a_killed_shard_costs_its_rows_until_ray_has_restarted_it(cluster, table):
    path, single = table
    now_s = [0.0]
    circuit = lambda: Circuit(lambda: now_s[0], failures=1, open_s=1.0)  # noqa: E731
    source = start_shards(path, 2, timeout_s=30.0, circuit=circuit)
    rows = torch.arange(ROWS)
    assert torch.equal(source.rows(rows), single.rows(rows))
    assert torch.equal(source.pooled(rows, torch.tensor([0, 7])), single.pooled(rows, torch.tensor([0, 7])))
    ray.kill(source.shards[1].actor, no_restart=False)
    found, missing = until(lambda: looked_up(source, rows), lambda got: bool(got[1]))
    expected = single.rows(rows)
    expected[1::2] = 0.0
    assert torch.equal(found, expected) and missing == ["shard 1 of table does not answer: its rows read as zeros"]
    assert source.status()[1]["circuit"] == "open"

    def tried_again() -> tuple[torch.Tensor, list[str]]:
        now_s[0] += 1.0
        return looked_up(source, rows)

    found, missing = until(tried_again, lambda got: not got[1])
    assert torch.equal(found, single.rows(rows)) and source.status()[1]["circuit"] == "closed"
    for shard in source.shards:
        shard.stop()


def looked_up(source: Any, rows: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    with noting_missing_rows() as missing:
        return source.rows(rows), missing


def until(call: Any, holds: Any, most_s: float = 60.0) -> Any:
    """Call until the result holds; processes end and start when they do."""
    give_up = time.monotonic() + most_s
    while True:
        result = call()
        if holds(result):
            return result
        assert time.monotonic() < give_up, "it did not come to that"
        time.sleep(0.05)


def test_a_request_with_a_dead_shard_is_answered_degraded_and_says_so(cluster, world):
    artifact = load_artifact(world.artifact)
    with open_log(world.log_url, read_only=True) as log:
        whole = Ranker(artifact, log, user_state_bytes=0)
        options = {"timeout_s": 30.0, "circuit": lambda: Circuit(lambda: 0.0, failures=1)}
        over = with_shards(artifact, {"request_features": 2}, **options)
        sharded = Ranker(over, log, user_state_bytes=0)
        assert shown(sharded.rank(ask())) == shown(whole.rank(ask()))
        source = over.model.request_features.table.source
        for shard in source.shards:
            shard.stop()
        answer = sharded.rank(ask())
        assert answer.degraded.is_ and len(answer.items) == 20
        assert any("request_features does not answer" in reason for reason in answer.degraded.reasons)


def test_engines_on_ray_answer_as_one_here_and_the_front_stands_in_for_a_dead_one(cluster, world, tmp_path):
    with open_log(world.log_url) as log:
        front = Ranker.load(world.artifact, log)
        served = RankerOnRay(front, world.artifact, engines=1, timeout_s=60.0, copy=False)
        served.warm()
        expected = front.rank(ask(), checked=True)
        answer = served.rank(ask(), checked=True)
        assert [i for i, _ in shown(answer)] == [i for i, _ in shown(expected)] and not answer.degraded.is_
        assert served.items is front.items and served.replaced == 0
        damaged = tmp_path / "deltas" / "delta-000002"
        make_delta(world.artifact, changed(world.artifact, tmp_path / "new"), tmp_path / "deltas")
        shutil.copytree(tmp_path / "deltas" / "delta-000001", damaged)
        (damaged / "dense.safetensors").write_bytes(b"")
        with pytest.raises(ArtifactError, match=r"dense\.safetensors"):
            served.apply_delta(damaged)
        assert served.rank(ask(), checked=True).model == expected.model, "what one refuses nobody serves"
        served.apply_delta(tmp_path / "deltas" / "delta-000001")
        after = served.rank(ask(), checked=True)
        assert after.model == f"{expected.model}+1" and not after.degraded.is_ and served.replaced == 0
        assert [i for i, _ in shown(after)] == [i for i, _ in shown(front.rank(ask(), checked=True))]
        restarted = RayEngine(str(world.artifact), world.log_url, {})
        assert restarted.rank(ask(), {}, -1, -1, served.deltas).model == after.model, "who was away catches up"
        served.close()
        answer = until(lambda: served.rank(ask()), lambda got: got.degraded.is_)
        assert served.replaced == 1 and shown(answer) == shown(front.rank(ask()))
        assert "engine 0 does not answer" in answer.degraded.reasons[0]
