"""Does our planner agree with TorchRec's on how many machines a trillion parameters need?

    python benchmarks/bench_planner.py [--torchrec /tmp/venv-torchrec/bin/python] [--json F]

TorchRec lives in a virtual environment of its own (`pip install torchrec` alone breaks without CUDA; 2026-11):

    python -m venv --system-site-packages /tmp/venv-torchrec
    /tmp/venv-torchrec/bin/pip install --no-deps fbgemm-gpu-cpu==1.8.0 torchrec==1.8.0
    /tmp/venv-torchrec/bin/pip install --no-deps tensordict torchmetrics==1.0.3 tqdm pyre-extensions \\
        lightning-utilities typing-inspect mypy-extensions pyvers

One model of 95 tables (0.99 T parameters, three sizes as in large production models), machines of 8 GPUs of 80 GB, 85 %
of each for rows. For fp16 and fp32 rows: the fewest machines by ours; whether TorchRec places the model on that many,
on one less, and on twice as many; bytes on the fullest GPU by both; seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine_facts import machine_facts, show_facts, write_json

GB = 1 << 30
TABLES = ((10, 4_000_000_000, 16), (25, 200_000_000, 64), (60, 40_000_000, 12))
"""(how many, rows, width): 640 + 320 + 28.8 billion parameters."""

THEIRS = """
import json, sys, time, warnings, logging
warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
import torch
from torchrec import EmbeddingBagConfig, EmbeddingBagCollection
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology, ParameterConstraints
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
asked = json.loads(sys.argv[1])
dtype = {"fp16": torch.float16, "fp32": torch.float32}[asked["form"]]
from torchrec.modules.embedding_configs import DataType
kind = {"fp16": DataType.FP16, "fp32": DataType.FP32}[asked["form"]]
configs = []
for count, rows, width in asked["tables"]:
    configs += [EmbeddingBagConfig(name=f"t{len(configs) + i}", num_embeddings=rows, embedding_dim=width,
        feature_names=[f"f{len(configs) + i}"], data_type=kind) for i in range(count)]
module = torch.nn.Module()
module.tables = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
topology = Topology(world_size=asked["gpus"], compute_device="cuda", hbm_cap=asked["gpu_bytes"], local_world_size=8)
constraints = {c.name: ParameterConstraints(compute_kernels=[EmbeddingComputeKernel.FUSED.value]) for c in configs}
planner = EmbeddingShardingPlanner(topology=topology, batch_size=512, constraints=constraints)
started = time.perf_counter()
try:
    plan = planner.plan(module, [EmbeddingBagCollectionSharder()])
    held = [0] * asked["gpus"]
    kinds = {}
    for tables in plan.plan.values():
        for name, sharded in tables.items():
            kinds[sharded.sharding_type] = kinds.get(sharded.sharding_type, 0) + 1
            for shard in sharded.sharding_spec.shards:
                held[shard.placement.rank()] += shard.shard_sizes[0] * shard.shard_sizes[1] * dtype.itemsize
    told = {"fits": True, "most_bytes": max(held), "least_bytes": min(held), "kinds": kinds}
except PlannerError as error:
    told = {"fits": False, "why": str(error).strip().splitlines()[0][:200]}
print(json.dumps({**told, "seconds": time.perf_counter() - started}))
"""


def ours(form: str) -> dict[str, Any]:
    from depthrank.cluster import Hardware, Machine, ModelSize, TableSize, plan_cluster

    tables = [
        TableSize(f"t{kind}.{i}", rows, width, "bf16" if form == "fp16" else "fp32")
        for kind, (count, rows, width) in enumerate(TABLES)
        for i in range(count)
    ]
    machine = Machine(memory_bytes=0, gpus=8, gpu_bytes=80 * GB)
    started = time.perf_counter()
    plan = plan_cluster(ModelSize(tuple(tables)), Hardware(machine))
    return {
        "machines": plan.machines,
        "parameters": plan.parameters,
        "most_bytes": max(plan.bytes_by_memory),
        "least_bytes": min(plan.bytes_by_memory),
        "tables": plan.kinds,
        "seconds": time.perf_counter() - started,
    }


def theirs(python: str, form: str, machines: int) -> dict[str, Any]:
    asked = {"form": form, "tables": TABLES, "gpus": 8 * machines, "gpu_bytes": 80 * GB}
    done = subprocess.run([python, "-c", THEIRS, json.dumps(asked)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"TorchRec's planner failed: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchrec", default="/tmp/venv-torchrec/bin/python", help="a Python that has torchrec")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine_facts("depthrank")
    show_facts(facts)
    found: dict[str, Any] = {}
    for form in ("fp16", "fp32"):
        own = ours(form)
        found[form] = {"ours": own, "torchrec": {}}
        most = f"fullest GPU {own['most_bytes'] / GB:.1f} GB"
        print(f"{form}: ours {own['machines']} machines, {most}, {own['seconds']:.2f} s")
        for machines in (own["machines"], own["machines"] - 1, 2 * own["machines"]):
            told = theirs(options.torchrec, form, machines)
            found[form]["torchrec"][machines] = told
            most = f"fullest GPU {told['most_bytes'] / GB:.1f} GB, {told['kinds']}" if told["fits"] else told["why"]
            fits = "fits" if told["fits"] else "does not fit"
            print(f"  TorchRec, {machines} machines: {fits} ({most}), {told['seconds']:.1f} s")
    if options.json is not None:
        write_json(options.json, {"machine": facts, **found})


if __name__ == "__main__":
    main()
