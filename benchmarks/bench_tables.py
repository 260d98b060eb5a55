r"""Table lookups beside TorchRec's EmbeddingBagCollection, one fused torch embedding, and torch's byte-wise bags.

    python benchmarks/bench_tables.py [--json F] [--rounds 15]

Single-valued: 20 features of 50,000 rows, width 64, one id a feature, for 1 and 2,000 rows. Pooled: 8 features of
200,000 rows, width 64, 20 ids a feature, 1,000 rows; all ids there, or two in three. Ours take int32 ids, as
the feature encoder gives them; rivals int64 and, where they can, int32 too. Variants run in turn in one process, one
thread; figures are medians over rounds of the mean of a round, ratios are medians of the ratios within a round.
``floor_us`` is the bytes that a lookup must touch (whole cache lines of its rows, its ids, its result) over the copy
bandwidth measured here; ``times_floor`` is a variant's time over it. About 2 minutes.

TorchRec needs an environment of its own (FEASIBILITY: fbgemm-gpu-cpu 1.8 for torch 2.13); without it that rival is
left out and the result says so:

    python -m venv /tmp/venv-torchrec
    printf "$PWD/.venv/lib/python3.11/site-packages\n$PWD/src\n" > \
        /tmp/venv-torchrec/lib/python3.11/site-packages/main.pth
    /tmp/venv-torchrec/bin/pip install --no-deps fbgemm-gpu-cpu==1.8.0 torchrec==1.8.0 tensordict pyvers orjson \
        importlib_metadata torchmetrics==1.0.3 tqdm pyre-extensions
    /tmp/venv-torchrec/bin/python benchmarks/bench_tables.py --json benchmarks/results/tables.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from depthrank.tables import ROW_FORMATS, FusedTable, RowFile, ServedTable, TableSlot, row_bytes, write_row_file
from machine_facts import COPIED_FLOATS, machine_facts, torch_facts

WIDTH = 64
SINGLE = {"features": 20, "rows": 50_000, "ids": 1}
POOLED = {"features": 8, "rows": 200_000, "ids": 20}
LINE = 64

Call = Callable[[], object]


class FusedEmbedding(nn.Module):
    """The rival in plain torch: all features in one embedding, offsets added."""

    def __init__(self, weight: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.weight, self.offsets = nn.Parameter(weight, requires_grad=False), offsets

    def forward(self, ids_nF: Tensor) -> Tensor:
        return F.embedding(ids_nF + self.offsets, self.weight)


def tables_of(shape: dict[str, int], folder: Path) -> tuple[FusedTable, dict[str, ServedTable]]:
    """The trained table and what serving maps of it in each format."""
    k = shape["ids"]
    slots = [TableSlot(f"f{i}", shape["rows"], i * k, (i + 1) * k) for i in range(shape["features"])]
    torch.manual_seed(0)
    table = FusedTable(slots, WIDTH).requires_grad_(False)
    served = {}
    for form in ROW_FORMATS:
        path = folder / f"{shape['features']}-{form}.rows"
        write_row_file(path, [table.packed(form)], form, WIDTH, table.weight.shape[0])
        served[form] = ServedTable(slots, WIDTH, RowFile.open(path).source())
    return table, served


def torchrec_of(table: FusedTable, shape: dict[str, int]) -> nn.Module | None:
    """TorchRec's collection over the same rows; None where it is not installed."""
    try:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchrec
    except ImportError:
        return None
    configs = [
        torchrec.EmbeddingBagConfig(
            name=f"t{i}", embedding_dim=WIDTH, num_embeddings=shape["rows"], feature_names=[f"f{i}"]
        )
        for i in range(shape["features"])
    ]
    collection = torchrec.EmbeddingBagCollection(tables=configs, device=torch.device("cpu"))
    for i in range(shape["features"]):
        rows = table.weight[i * shape["rows"] : (i + 1) * shape["rows"]]
        collection.embedding_bags[f"t{i}"].weight.data.copy_(rows)
    return collection.requires_grad_(False)


def jagged(ids_nI: Tensor, shape: dict[str, int]) -> Any:
    """The ids as TorchRec takes them: by feature, then row."""
    import torchrec

    n, k = ids_nI.shape[0], shape["ids"]
    values = ids_nI.view(n, shape["features"], k).transpose(0, 1).reshape(-1)
    lengths = torch.full((shape["features"] * n,), k, dtype=torch.int64)
    return torchrec.KeyedJaggedTensor(keys=[f"f{i}" for i in range(shape["features"])], values=values, lengths=lengths)


def single(n: int, folder: Path) -> dict[str, Call]:
    """One id a feature, for n rows."""
    table, served = tables_of(SINGLE, folder)
    offsets = torch.arange(SINGLE["features"]) * SINGLE["rows"]
    ids = torch.randint(1, SINGLE["rows"], (n, SINGLE["features"]), generator=torch.Generator().manual_seed(1))
    rival = FusedEmbedding(table.weight.detach().clone(), offsets)
    short, rival_short = ids.to(torch.int32), FusedEmbedding(rival.weight.detach(), offsets.to(torch.int32))
    calls: dict[str, Call] = {
        "torch fused embedding": lambda: rival(ids),
        "torch fused embedding, int32": lambda: rival_short(short),
    }
    collection = torchrec_of(table, SINGLE)
    if collection is not None:
        keyed = jagged(ids, SINGLE)
        calls["torchrec EmbeddingBagCollection"] = lambda: collection(keyed).values()
        found = collection(keyed).values().view(n, SINGLE["features"], WIDTH)
        torch.testing.assert_close(found, rival(ids))
    for form, one in served.items():
        calls[f"ours {form}"] = lambda one=one: one(short)
    torch.testing.assert_close(served["fp32"](short), rival(ids))
    return calls


def pooled(n: int, folder: Path, absent: float = 0.0) -> dict[str, Call]:
    """20 ids a feature, for n rows. Ours are means over the ids that are there; rivals are sums, but for the means."""
    table, served = tables_of(POOLED, folder)
    k, features = POOLED["ids"], POOLED["features"]
    ids = torch.randint(1, POOLED["rows"], (n, features * k), generator=torch.Generator().manual_seed(1))
    ids[torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < absent] = 0
    first = torch.arange(features).repeat_interleave(k) * POOLED["rows"]
    bags = torch.arange(0, n * features * k, k)
    short, first_short, bags_short = (x.to(torch.int32) for x in (ids, first, bags))
    packed = served["int8"].source.packed_VB.clone()  # type: ignore[attr-defined]
    byte_wise = torch.ops.quantized.embedding_bag_byte_rowwise_offsets

    def byte_wise_mean() -> Tensor:
        """The same function as ours: a mean over the ids that are there."""
        summed = byte_wise(packed, (ids + first).flatten(), bags).view(n, features, WIDTH)
        return summed.div_((ids != 0).view(n, features, k).sum(2, keepdim=True).clamp_min(1))

    calls: dict[str, Call] = {
        "torch byte-wise bag": lambda: byte_wise(packed, (ids + first).flatten(), bags),
        "torch byte-wise bag, int32": lambda: byte_wise(packed, (short + first_short).flatten(), bags_short),
        "torch byte-wise bag, mean": byte_wise_mean,
        "torch fp32 bag": lambda: F.embedding_bag((ids + first).flatten(), table.weight, bags, mode="sum"),
    }
    collection = torchrec_of(table, POOLED)
    if collection is not None:
        keyed = jagged(ids, POOLED)
        calls["torchrec EmbeddingBagCollection"] = lambda: collection(keyed).values()
    for form, one in served.items():
        calls[f"ours {form}"] = lambda one=one: one(short)
    torch.testing.assert_close(served["int8"](short), byte_wise_mean(), atol=1e-5, rtol=1e-4)
    return calls


def timed(calls: dict[str, Call], rounds: int, budget_s: float) -> dict[str, dict[str, float]]:
    """Microseconds a call of each variant: medians over rounds in which all of them run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    repeats = {}
    for name, call in calls.items():
        call()
        started = time.perf_counter()
        for _ in range(5):
            call()
        once = (time.perf_counter() - started) / 5
        repeats[name] = max(3, int(budget_s / rounds / len(calls) / once))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            seconds[name].append((time.perf_counter() - started) / repeats[name])
    found = {}
    for name in calls:
        found[name] = {"us": round(1e6 * statistics.median(seconds[name]), 2)}
        for rival in (r for r in calls if not r.startswith("ours")):
            ratios = [theirs / own for theirs, own in zip(seconds[rival], seconds[name], strict=True)]
            found[name][f"times {rival}"] = round(statistics.median(ratios), 2)
    return found


def floors(shape: dict[str, int], n: int, bytes_a_second: float) -> dict[str, float]:
    """The least a lookup can take: whole lines of its rows read, ids read, results written."""
    lookups, results = n * shape["features"] * shape["ids"], n * shape["features"] * WIDTH * 4
    found = {}
    for form in ROW_FORMATS:
        size = row_bytes(form, WIDTH)
        lines = (size - 1) / LINE + 1  # on average, wherever in a line a row begins
        found[form] = round(1e6 * (lookups * (lines * LINE + 8) + results) / bytes_a_second, 2)
    return found


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    a, b = torch.randn(COPIED_FLOATS), torch.empty(COPIED_FLOATS)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        b.copy_(a)
        best = min(best, time.perf_counter() - started)
    return 2 * 4 * COPIED_FLOATS / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=25.0, help="about so long for each of the four cases")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    speed = copy_bandwidth()
    facts = machine_facts("torch", "torchrec", "fbgemm-gpu-cpu") | torch_facts()
    told: dict[str, Any] = {"machine": facts, "copy_bytes_a_second": round(speed), "width": WIDTH}
    cases = {"single, 1 row": (single, SINGLE, 1), "single, 2000 rows": (single, SINGLE, 2_000)}
    cases["pooled, 1000 rows"] = (pooled, POOLED, 1_000)
    cases["pooled, 1000 rows, a third absent"] = (lambda n, into: pooled(n, into, absent=1 / 3), POOLED, 1_000)
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, shape, n) in cases.items():
            found = timed(make(n, Path(folder)), args.rounds, args.seconds)
            floor = floors(shape, n, speed)
            for form in ROW_FORMATS:
                found[f"ours {form}"]["times_floor"] = round(found[f"ours {form}"]["us"] / floor[form], 2)
            told[name] = {"shape": shape, "variants": found, "floor_us": floor}
            print(f"{name} (floor {told[name]['floor_us']} us)")
            for variant, figures in found.items():
                print(f"  {variant:34}", "  ".join(f"{k} {v}" for k, v in figures.items()))
    if args.json is not None:
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
