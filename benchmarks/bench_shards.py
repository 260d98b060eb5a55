"""What does a lookup cost on Ray actors, what does a dead one cost, and does a sharded table train like a single one?

    python benchmarks/bench_shards.py [--rows 1000000] [--lookups 300] [--json F]
    python benchmarks/bench_shards.py --torchrec PYTHON [--json F]      as bench_planner.py says

Lookups of 2,000 Zipf-distributed rows of width 64 (int8) of a table on 1, 2 and 4 actors, interleaved with the same of
the table here; every answer is compared. Then one actor is killed: lookups that are degraded, and the time until all
rows are there again. With --torchrec instead: two processes over gloo, a table cut by rows, five steps of SGD, against
the same table in one process; the largest difference of outputs and of rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from machine_facts import machine_facts, show_facts, write_json

WIDTH = 64
ASKED = 2_000
SHARDS = (1, 2, 4)

TRAINS = """
import json, os, sys, warnings, logging
warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
import torch, torch.distributed as dist, torch.multiprocessing as mp
ROWS, WIDTH, BATCH, STEPS = 1000, 16, 64, 5

def table():
    from torchrec import EmbeddingBagConfig, EmbeddingBagCollection
    torch.manual_seed(0)
    config = EmbeddingBagConfig(name="t", num_embeddings=ROWS, embedding_dim=WIDTH, feature_names=["f"])
    return EmbeddingBagCollection(tables=[config], device=torch.device("cpu"))

def batches(rank, world):
    from torchrec import KeyedJaggedTensor
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        ids = torch.randint(0, ROWS, (BATCH,), generator=generator)
        own = ids.chunk(world)[rank]
        lengths = torch.ones(len(own), dtype=torch.int64)
        yield KeyedJaggedTensor.from_lengths_sync(keys=["f"], values=own, lengths=lengths)

def rows_of(model):
    own = model.state_dict()["tables.embedding_bags.t.weight"].local_shards()
    return torch.cat([shard.tensor for shard in own]).detach().clone()

def run(rank, world, out):
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingPlan
    from torchrec.distributed.types import ShardingEnv
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=out["port"], RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    module = torch.nn.Module()
    module.tables = table()
    module.forward = lambda batch: module.tables(batch)
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    sgd = {"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": 0.5}  # the backward pass takes the step
    sharders = [EmbeddingBagCollectionSharder(fused_params=sgd)]
    cut = construct_module_sharding_plan(module.tables, {"t": row_wise(compute_kernel="fused")}, sharder=sharders[0],
        local_size=world, world_size=world, device_type="cpu")
    plan = ShardingPlan({"tables": cut})
    model = DistributedModelParallel(module, env=ShardingEnv.from_process_group(dist.group.WORLD), plan=plan,
        sharders=sharders, device=torch.device("cpu"))
    start, outputs = rows_of(model), []  # TorchRec drew its own
    for batch in batches(rank, world):
        value = model.module.tables(batch).wait()["f"]
        outputs.append(value.detach().clone())
        (value ** 2).sum().backward()
    mine = rows_of(model)
    torch.save({"rows": mine, "outputs": outputs, "start": start}, f"{out['folder']}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    out = json.loads(sys.argv[1])
    mp.spawn(run, args=(2, out), nprocs=2)
    parts = [torch.load(f"{out['folder']}/{rank}.pt") for rank in range(2)]
    start = torch.cat([part["start"] for part in parts])
    single = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([single], lr=0.5)
    worst = 0.0
    for step in range(STEPS):
        ids = [list(batches(rank, 2))[step].values() for rank in range(2)]
        values = [single[i] for i in ids]
        worst = max(worst, *(float((v - parts[r]["outputs"][step]).abs().max()) for r, v in enumerate(values)))
        sgd.zero_grad()
        # each process has the loss of its half; gradients of a sharded table are averaged over processes
        (sum((v ** 2).sum() for v in values) / out["divide"]).backward()
        sgd.step()
    rows = torch.cat([part["rows"] for part in parts])
    moved = float((single - start).abs().max())
    print(json.dumps({"outputs": worst, "rows": float((rows - single).abs().max()), "moved": moved}))
"""


def training(python: str) -> dict[str, Any]:
    """Largest differences between the sharded and the single table after five steps."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "trains.py"
        script.write_text(TRAINS)
        out = {"folder": folder, "port": str(20_000 + int(time.time()) % 20_000), "divide": 2}
        done = subprocess.run([python, str(script), json.dumps(out)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"training failed: {done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def lookups(rows: int, count: int) -> dict[str, Any]:
    import ray
    import torch

    from depthrank.cluster import Circuit
    from depthrank.cluster.ray_shards import start_shards
    from depthrank.tables import PackedRows, noting_missing_rows, pack_rows, write_row_file

    torch.set_num_threads(1)
    packed = pack_rows(torch.randn(rows, WIDTH), "int8")
    here = PackedRows(packed, "int8", WIDTH)
    found: dict[str, Any] = {"lookups": {}}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.rows"
        write_row_file(path, [packed], "int8", WIDTH, rows)
        sources = {shards: start_shards(path, shards, timeout_s=5.0) for shards in SHARDS}
        rng, took = np.random.default_rng(0), {name: [] for name in ("here", *SHARDS)}
        for _ in range(count):
            asked = torch.from_numpy(np.minimum(rng.zipf(1.2, ASKED) - 1, rows - 1))
            expected = None
            for name, source in (("here", here), *sources.items()):
                started = time.perf_counter()
                got = source.rows(asked)
                took[name].append((time.perf_counter() - started) * 1e3)
                assert expected is None or torch.equal(got, expected)
                expected = got
        for name, each in took.items():
            found["lookups"][str(name)] = {
                "p50_ms": float(np.percentile(each, 50)),
                "p99_ms": float(np.percentile(each, 99)),
            }
        found["killed"] = killed(
            ray, start_shards(path, 2, circuit=lambda: Circuit(time.monotonic)), noting_missing_rows
        )
    ray.shutdown()
    return found


def killed(ray: Any, source: Any, noting: Any) -> dict[str, Any]:
    """A lookup every 20 ms from the moment one of two shards is killed until nothing is missing."""
    import torch

    asked, took, degraded = torch.arange(ASKED), [], 0
    with noting():
        source.rows(asked)
    ray.kill(source.shards[1].actor, no_restart=False)
    started = time.perf_counter()
    while True:
        begun = time.perf_counter()
        with noting() as missing:
            source.rows(asked)
        took.append((time.perf_counter() - begun) * 1e3)
        if degraded and not missing:
            break
        degraded += bool(missing)
        time.sleep(0.02)
    return {
        "recovered_s": time.perf_counter() - started,
        "degraded_lookups": degraded,
        "most_ms": max(took),
        "p50_ms": float(np.median(took)),
        "status": source.status(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=300)
    parser.add_argument("--torchrec", help="a Python that has torchrec: compare training instead")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine_facts("torch", "ray", "depthrank")
    show_facts(facts)
    if options.torchrec:
        found: dict[str, Any] = {"training": training(options.torchrec)}
    else:
        found = lookups(options.rows, options.lookups)
    print(json.dumps(found, indent=1))
    if options.json is not None:
        write_json(options.json, {"machine": facts, **found})


if __name__ == "__main__":
    main()
