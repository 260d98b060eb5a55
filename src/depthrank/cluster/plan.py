"""How many machines a model needs, which rows lie where, and what a request then costs in bytes and lookups.

A shard lies in one memory: that of a machine, or of one of its GPUs. Tables are placed whole where they fit, the
largest first, each on the memory that is least full in bytes or in traffic, whichever is more; a table that fits
nowhere whole is cut by rows over as few machines as hold it, rows taking turns. The number of machines is the least
with which all of that works. What is counted is what serving holds: packed rows, and once a machine the dense weights.

Checked against TorchRec's planner: benchmarks/bench_planner.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from depthrank.errors import CapacityError, DataError
from depthrank.tables.row_format import ROW_FORMATS, RowFormat, row_bytes

GB = 1 << 30
MOST_MACHINES = 65_536


@dataclass(frozen=True)
class TableSize:
    """``lookups``: rows that a request reads, or each of its candidates."""

    name: str
    rows: int
    width: int
    form: RowFormat = "fp32"
    lookups: float = 1.0
    per: Literal["request", "candidate"] = "request"

    def __post_init__(self) -> None:
        if self.rows < 1 or self.width < 1 or self.lookups < 0 or self.form not in ROW_FORMATS:
            raise DataError(
                f"table {self.name!r}: {self.rows} rows of width {self.width} in {self.form!r}, {self.lookups} "
                f"lookups; expected at least 1 and 1, one of {', '.join(ROW_FORMATS)}, and no negative number"
            )

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.form, self.width)

    @property
    def bytes(self) -> int:
        return self.rows * self.row_bytes

    def lookups_of(self, candidates: int) -> float:
        """Rows that a request with this many candidates reads."""
        return self.lookups * (candidates if self.per == "candidate" else 1)


@dataclass(frozen=True)
class ModelSize:
    """The tables, the bytes of the dense weights, and how many candidates a usual request has."""

    tables: tuple[TableSize, ...]
    dense_bytes: int = 0
    candidates: int = 1_000

    @property
    def parameters(self) -> int:
        """Numbers in the tables."""
        return sum(table.rows * table.width for table in self.tables)


@dataclass(frozen=True)
class Machine:
    """``gpus`` 0: rows lie in the machine's memory. ``usable``: the share of a memory that rows may take."""

    memory_bytes: int
    gpus: int = 0
    gpu_bytes: int = 0
    network_bytes_s: float = 25e9 / 8
    memory_bytes_s: float = 30e9
    usable: float = 0.85

    @property
    def memories(self) -> int:
        """Places that a shard can lie in."""
        return max(1, self.gpus)

    def room_bytes(self, dense_bytes: int) -> int:
        """Bytes of rows that one of them holds."""
        return int((self.gpu_bytes if self.gpus else self.memory_bytes) * self.usable) - dense_bytes


@dataclass(frozen=True)
class Hardware:
    """Machines of one kind, at most so many."""

    machine: Machine
    most_machines: int = MOST_MACHINES


@dataclass(frozen=True)
class ShardPlace:
    """Rows ``part``, ``part + of``, ... of a table in one memory of a machine."""

    table: str
    machine: int
    memory: int
    part: int
    of: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """Where everything lies. Bytes and lookups of a request are of one usual request; ``network_ms`` is the time that
    its rows take on the links of the machines, all of which send at once, and of the one that receives."""

    machines: int
    shards: tuple[ShardPlace, ...]
    bytes_by_memory: tuple[int, ...]
    lookups_by_machine: tuple[float, ...]
    request_lookups: float
    request_bytes: float
    network_bytes: float
    network_ms: float
    most_requests_s: float
    parameters: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "machines": self.machines,
            "parameters": self.parameters,
            "table_bytes": sum(s.bytes for s in self.shards),
            "bytes_by_memory": {"least": min(self.bytes_by_memory), "most": max(self.bytes_by_memory)},
            "tables": self.kinds,
            "request": {
                "lookups": self.request_lookups,
                "bytes": self.request_bytes,
                "network_bytes": self.network_bytes,
                "network_ms": self.network_ms,
            },
            "lookups_by_machine": {"least": min(self.lookups_by_machine), "most": max(self.lookups_by_machine)},
            "most_requests_s": self.most_requests_s,
            "shards": [vars(s) for s in self.shards],
        }


def plan_cluster(model: ModelSize, hardware: Hardware) -> Plan:
    """The plan with the fewest machines. Raises CapacityError where the hardware cannot hold the model, with what it
    would need, and DataError for a model without tables."""
    if not model.tables:
        raise DataError("the model has no tables: there is nothing to place")
    machine = hardware.machine
    room = machine.room_bytes(model.dense_bytes)
    total = sum(table.bytes for table in model.tables)
    if room <= 0:
        raise CapacityError(
            f"the dense weights ({model.dense_bytes / GB:,.1f} GB) leave no room for rows in one memory of a machine"
        )
    least = math.ceil(total / (room * machine.memories))
    if least > hardware.most_machines:
        raise CapacityError(
            f"the tables need {total / GB:,.0f} GB, {hardware.most_machines} machines hold "
            f"{hardware.most_machines * machine.memories * room / GB:,.0f} GB of rows: take {least} machines, more "
            "memory, or narrower rows"
        )
    for machines in range(max(1, least), hardware.most_machines + 1):
        memories = _placed(model, machine, machines)
        if memories is not None:
            return _plan(model, machine, machines, memories)
    raise CapacityError(f"the tables do not pack into {hardware.most_machines} machines: take one more")


@dataclass
class _Memory:
    machine: int
    number: int
    bytes: int = 0
    traffic: float = 0.0
    shards: list[ShardPlace] = field(default_factory=list)

    def put(self, table: TableSize, part: int, of: int, traffic: float) -> None:
        rows = len(range(part, table.rows, of))
        place = ShardPlace(table.name, self.machine, self.number, part, of, rows, rows * table.row_bytes)
        self.shards.append(place)
        self.bytes += place.bytes
        self.traffic += traffic


def _placed(model: ModelSize, machine: Machine, machines: int) -> list[_Memory] | None:
    """Every table in its place; None where one does not fit."""
    memories = [_Memory(m, k) for m in range(machines) for k in range(machine.memories)]
    room = machine.room_bytes(model.dense_bytes)
    traffic = {t.name: t.lookups_of(model.candidates) * t.row_bytes for t in model.tables}
    even = sum(traffic.values()) / len(memories) or 1.0

    def fullness(memory: _Memory) -> tuple[float, int]:
        return max(memory.bytes / room, memory.traffic / even * 0.5), memory.bytes

    for table in sorted(model.tables, key=lambda t: (-t.bytes, t.name)):
        fitting = [memory for memory in memories if memory.bytes + table.bytes <= room]
        if fitting:
            min(fitting, key=fullness).put(table, 0, 1, traffic[table.name])
        elif not _cut(table, memories, machine, room, traffic[table.name]):
            return None
    return memories


def _cut(table: TableSize, memories: Sequence[_Memory], machine: Machine, room: int, traffic: float) -> bool:
    """Cut a table by rows over the emptiest machines, as few as hold it; False where all together do not."""
    by_machine = [memories[i : i + machine.memories] for i in range(0, len(memories), machine.memories)]
    by_machine.sort(key=lambda own: (sum(memory.bytes for memory in own), own[0].machine))
    for count in range(1, len(by_machine) + 1):
        chosen = [memory for own in by_machine[:count] for memory in own]
        part_bytes = math.ceil(table.rows / len(chosen)) * table.row_bytes
        if all(memory.bytes + part_bytes <= room for memory in chosen):
            for part, memory in enumerate(chosen):
                memory.put(table, part, len(chosen), traffic / len(chosen))
            return True
    return False


def _plan(model: ModelSize, machine: Machine, machines: int, memories: list[_Memory]) -> Plan:
    lookups = {t.name: t.lookups_of(model.candidates) for t in model.tables}
    sizes = {t.name: t.row_bytes for t in model.tables}
    own_lookups, own_bytes = [0.0] * machines, [0.0] * machines
    shards = [shard for memory in memories for shard in memory.shards]
    for shard in shards:
        own_lookups[shard.machine] += lookups[shard.table] / shard.of
        own_bytes[shard.machine] += lookups[shard.table] / shard.of * sizes[shard.table]
    request_bytes = sum(own_bytes)
    away = request_bytes * (machines - 1) / machines  # the engine runs on one of them
    busiest = max(own_bytes)
    network_ms = 0.0 if machines == 1 else 1e3 * max(away, busiest) / machine.network_bytes_s
    send_s = busiest * (machines - 1) / machines / machine.network_bytes_s
    receive_s = away / machines / machine.network_bytes_s  # engines run on all of them
    read_s = busiest / (machine.memory_bytes_s * machine.memories)
    slowest_s = max(send_s, receive_s, read_s)
    kinds = {"whole": sum(s.of == 1 for s in shards), "by_rows": len({s.table for s in shards if s.of > 1})}
    return Plan(
        machines=machines,
        shards=tuple(shards),
        bytes_by_memory=tuple(memory.bytes for memory in memories),
        lookups_by_machine=tuple(own_lookups),
        request_lookups=sum(lookups.values()),
        request_bytes=request_bytes,
        network_bytes=away,
        network_ms=network_ms,
        most_requests_s=math.inf if slowest_s == 0 else 1 / slowest_s,
        parameters=model.parameters,
        kinds=kinds,
    )
