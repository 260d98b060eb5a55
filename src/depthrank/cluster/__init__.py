"""More than one machine: rows on shards behind the lookup interface, engines as Ray actors, and a planner for both."""

from __future__ import annotations

from depthrank.cluster.circuit import Circuit
from depthrank.cluster.plan import Hardware, Machine, ModelSize, Plan, TableSize, plan_cluster
from depthrank.cluster.sharded_rows import ShardedRows
from depthrank.cluster.shards import Shard, ShardMissing, ShardRows

__all__ = [
    "Circuit",
    "Hardware",
    "Machine",
    "ModelSize",
    "Plan",
    "Shard",
    "ShardMissing",
    "ShardRows",
    "ShardedRows",
    "TableSize",
    "plan_cluster",
]
