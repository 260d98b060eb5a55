"""The verbs on a small trained artifact: what they print and what they write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from small_films import NUM_USERS, RATINGS_A_USER, Command, SmallDemo

REQUEST = {"user": "1", "candidates": [str(i) for i in range(1, 41)], "top": 5, "mode": "full"}


@pytest.fixture
def own(small_demo: SmallDemo, tmp_path: Path) -> SmallDemo:
    """A copy that a test may change."""
    shutil.copytree(small_demo.folder, tmp_path / "demo")
    return SmallDemo(tmp_path)


def test_rank_prints_the_answer_as_json_and_nothing_else(depthrank: Command, small_demo: SmallDemo) -> None:
    done = depthrank("rank", small_demo.artifact, "--request", "-", "--explain", stdin=json.dumps(REQUEST))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["items"]) == 5
    assert {"request_id", "model", "plan", "candidates_scored", "timings_ms", "degraded", "explain"} <= set(answer)
    assert done.stderr == ""  # quiet in a pipe


def test_rank_of_a_batch_equals_rank_of_each_request(depthrank: Command, small_demo: SmallDemo, tmp_path: Path) -> None:
    time_ms = 1_700_000_000_000
    requests = [{**REQUEST, "user": u, "time_ms": time_ms, "mode": "full"} for u in ("1", "2", "stranger")]
    pl.DataFrame(requests).write_parquet(tmp_path / "in.parquet")
    done = depthrank("rank", small_demo.artifact, "--batch", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet")
    assert done.returncode == 0, done.stderr
    rows = pl.read_parquet(tmp_path / "out.parquet")
    assert rows["rank"].to_list() == [1, 2, 3, 4, 5] * 3
    one = json.loads(depthrank("rank", small_demo.artifact, "--request", "-", stdin=json.dumps(requests[1])).stdout)
    assert rows.filter(pl.col("row") == 1)["item"].to_list() == [item["item"] for item in one["items"]]
    assert rows.filter(pl.col("row") == 1)["value"].to_list() == [item["value"] for item in one["items"]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["1"]}, "candidates: found no such column, expected a column (one request a row)"),
        ({"user": ["1"], "candidates": [["1"]], "topp": [3]}, "topp: found an unknown column, expected one of user"),
        (
            {"user": ["1"], "candidates": [["1"]], "top": [0]},
            "row 0: the request has wrong fields:\n  - $.top: found 0",
        ),
    ],
)
def test_a_wrong_batch_is_told_and_leaves_no_file(
    depthrank: Command, small_demo: SmallDemo, tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "in.parquet")
    done = depthrank("rank", small_demo.artifact, "--batch", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet")
    assert done.returncode == 1
    assert message in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]


def test_inspect_tells_the_model_and_verify_sees_a_changed_byte(depthrank: Command, own: SmallDemo) -> None:
    done = depthrank("inspect", own.artifact, "--verify", "--json", "-")
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)
    assert info["tasks"] == ["click", "like"] and info["levels"] == 2
    victim = max((p for p in own.artifact.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    done = depthrank("inspect", own.artifact, "--verify")
    assert done.returncode == 1
    assert victim.name in done.stderr


def test_evaluate_writes_the_promised_json(depthrank: Command, small_demo: SmallDemo, tmp_path: Path) -> None:
    spec, figures = small_demo.folder / "ranking.yaml", tmp_path / "f.json"
    done = depthrank("evaluate", small_demo.artifact, spec, "--json", figures, "--html", tmp_path / "f.html")
    assert done.returncode == 0, done.stderr
    plain = json.loads(figures.read_text())
    assert {"auc", "gauc", "ne", "logloss"} <= set(plain["tasks"]["click"])
    assert {"ndcg@10", "hr@10", "mrr", "coverage", "long_tail_share"} <= set(plain["ranking"])
    assert len(plain["levels"]) == 2
    assert "AUC per user, weighted" in done.stdout
    assert (tmp_path / "f.html").read_text().startswith("<!")


def test_importing_again_appends_nothing(depthrank: Command, own: SmallDemo) -> None:
    done = depthrank("log", "import", own.folder / "ranking.yaml", "--log", own.log)
    assert done.returncode == 0, done.stderr
    assert ": 0 appended," in done.stdout


def test_the_log_can_be_counted_exported_backed_up_erased_and_restored(depthrank: Command, own: SmallDemo) -> None:
    stats = json.loads(depthrank("log", "stats", "--log", own.log, "--json", "-").stdout)
    assert stats["users"] == NUM_USERS
    out = own.root / "events.parquet"
    assert depthrank("log", "export", "--log", own.log, "--out", out).returncode == 0
    exported = pl.read_parquet(out)
    assert exported.height == stats["events"]
    assert exported.filter(pl.col("action") == "click").height == NUM_USERS * RATINGS_A_USER
    assert depthrank("log", "backup", own.root / "backup", "--log", own.log).returncode == 0
    assert "erased" in depthrank("log", "erase", "7", "--log", own.log).stdout
    left = json.loads(depthrank("log", "stats", "--log", own.log, "--json", "-").stdout)
    assert left["users"] == NUM_USERS - 1
    restored = f"lmdb:{own.root / 'restored'}"
    assert depthrank("log", "restore", own.root / "backup", "--log", restored).returncode == 0
    assert json.loads(depthrank("log", "stats", "--log", restored, "--json", "-").stdout)["events"] == left["events"], (
        "the erasure reached the backup"
    )


def test_bench_measures_a_server_that_it_starts(depthrank: Command, own: SmallDemo) -> None:
    figures = own.root / "bench.json"
    done = depthrank(
        "bench", own.artifact, "--rate", 10, "--seconds", 1.5, "--candidates", 20, "--surge", 2, "--json", figures
    )
    assert done.returncode == 0, done.stderr
    plain = json.loads(figures.read_text())
    assert plain["errors"] == 0 and plain["answered"] > 0
    assert plain["core_s_per_1000"] > 0


def test_training_stops_at_a_wrong_spec_before_it_loads_anything(depthrank: Command, own: SmallDemo) -> None:
    spec = own.folder / "ranking.yaml"
    spec.write_text(spec.read_text().replace("kind: text", "kind: txet").replace("path: items", "pth: items"))
    done = depthrank("train", spec, "--out", own.root / "new")
    assert done.returncode == 1
    assert "has 2 mistakes:" in done.stderr
    assert "did you mean 'text'?" in done.stderr and "did you mean 'path'?" in done.stderr
    assert not (own.root / "new").exists()
