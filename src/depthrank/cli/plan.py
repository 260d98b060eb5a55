"""``depthrank plan``: what hardware a model needs, and where its rows would lie."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.options import bytes_of
from depthrank.cli.terminal import say, table, write_json


def plan(
    model: Annotated[Path, typer.Argument(metavar="DIR|F", help="An artifact, or a YAML file with a model's sizes.")],
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of one machine.")] = "64GB",
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of one machine; rows lie in their memory then.")] = 0,
    gpu_memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of one GPU.")] = "80GB",
    network: Annotated[float, typer.Option(min=0.001, help="Gbit/s of one machine.")] = 25.0,
    memory_bandwidth: Annotated[float, typer.Option(min=0.001, help="GB/s of one memory.")] = 30.0,
    machines: Annotated[int, typer.Option(min=1, help="How many machines there are at most.")] = 1_024,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates of a usual request (artifacts).")] = 1_000,
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write the plan as JSON (- for stdout).")] = None,
) -> None:
    """How many machines a model needs, which rows lie where, and what a request costs in lookups and network.

    A file of sizes: tables: [{rows: 2000000000, width: 64, count: 10, form: int8, lookups: 1, per: request}],
    dense_bytes: 400000000, candidates: 1000

    Example: depthrank plan model.yaml --memory 512GB --network 100
    """
    from depthrank.cluster import Hardware, Machine, plan_cluster
    from depthrank.cluster.model_size import size_of_artifact, size_of_file

    size = size_of_artifact(model, candidates) if model.is_dir() else size_of_file(model)
    machine = Machine(
        memory_bytes=bytes_of(memory, "--memory"),
        gpus=gpus,
        gpu_bytes=bytes_of(gpu_memory, "--gpu-memory"),
        network_bytes_s=network * 1e9 / 8,
        memory_bytes_s=memory_bandwidth * 1e9,
    )
    made = plan_cluster(size, Hardware(machine, machines))
    told = made.to_json()
    if json is not None:
        write_json(told, json)
        return
    gb, request = 1 << 30, told["request"]
    say(f"{made.machines} machines for {made.parameters:,} parameters in {told['table_bytes'] / gb:,.2f} GB of rows")
    say(f"{made.kinds['whole']} tables lie whole, {made.kinds['by_rows']} are cut by rows")
    most, least = (told["bytes_by_memory"][name] / gb for name in ("most", "least"))
    say(f"a memory holds {least:,.2f} to {most:,.2f} GB of rows")
    say(
        f"a request looks up {request['lookups']:,.0f} rows, {request['bytes'] / 1e6:,.2f} MB, of which "
        f"{request['network_bytes'] / 1e6:,.2f} MB cross the network in {request['network_ms']:,.2f} ms"
    )
    say(f"the network and the memories carry at most {told['most_requests_s']:,.0f} such requests a second")
    rows = [
        [s.table, s.machine, s.memory, f"{s.part} of {s.of}", f"{s.rows:,}", f"{s.bytes / gb:,.3f}"]
        for s in made.shards[:40]
    ]
    table("Shards, the first 40", ["table", "machine", "memory", "part", "rows", "GB"], rows, right=("rows", "GB"))
