"""Memory against quality: what a table plan loses at a part of the memory, beside equal hash tables.

    python benchmarks/quality/tables_memory.py [--seeds 3] [--json F] [--html F] [--quick]

Task: MovieLens-100K, will a user like (4 or 5 stars) a film that he rated; user, film, age, gender, occupation, zip
code, year, genres and title words as ids; split 8:1:1 at random by seed. Model: one ``FusedTable`` of width 64, the
products of all pairs of features, and a two-layer network; Adam, the epoch of the best validation loss is kept.
The same examples, model, seeds and training for every variant; only the rows differ:

    separate   a row an id, fp32: the full size
    hashed     every feature's ids hashed into the same fraction of its rows, one hash, fp32 (the usual way)
    planned    ``plan_tables`` under the same number of bytes, all rows fp32 (a tenth only): own rows, one pool a side
    formats    ``plan_tables`` under the same number of bytes, its choice of format (rows quantised after training)

A run takes 15-20 s on an idle core, 24 of them are about 7 minutes; with ``--json`` it goes on where it was ended.
Then int8 and int4 rows of the full-size model, NE beside fp32 with intervals over test users (bootstrap).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from depthrank.cli.movielens import cached_wheel
from depthrank.metrics import auc, normalized_entropy
from depthrank.tables import FusedTable, RowFormat, TableSlot, pack_rows, row_bytes, unpack_rows
from depthrank.tables.plan import FIRST_KNOWN, SlotTraffic, TablePlan, plan_tables
from machine_facts import machine_facts, torch_facts

WIDTH = 64
FRACTIONS = (0.1, 0.5, 0.25)
FOLDER = "recbole/dataset_example/ml-100k"
SINGLE = ("user", "item", "age", "gender", "occupation", "zip", "year")
SEVERAL = {"genres": 4, "title": 6}


class Likes:
    """100,000 ratings as id columns [n, I] and labels; ids fall in frequency over all ratings of a feature."""

    def __init__(self) -> None:
        with zipfile.ZipFile(cached_wheel()) as archive:
            rows = {part: self._rows(archive, part) for part in ("inter", "item", "user")}
        films = {r["item_id"]: r for r in rows["item"]}
        people = {r["user_id"]: r for r in rows["user"]}
        ratings = rows["inter"]
        self.label = np.array([float(r["rating"]) >= 4 for r in ratings], dtype=np.float32)
        self.user = np.unique([r["user_id"] for r in ratings], return_inverse=True)[1]
        texts: dict[str, list[list[str]]] = {"user": [[r["user_id"]] for r in ratings]}
        texts["item"] = [[r["item_id"]] for r in ratings]
        for name, column in (("age", "age"), ("gender", "gender"), ("occupation", "occupation"), ("zip", "zip_code")):
            texts[name] = [[people[r["user_id"]][column]] for r in ratings]
        texts["year"] = [[films[r["item_id"]]["release_year"]] for r in ratings]
        texts["genres"] = [films[r["item_id"]]["class"].split()[:4] for r in ratings]
        texts["title"] = [films[r["item_id"]]["movie_title"].lower().split()[:6] for r in ratings]
        self.texts = texts

    @staticmethod
    def _rows(archive: zipfile.ZipFile, part: str) -> list[dict[str, str]]:
        lines = archive.read(f"{FOLDER}/ml-100k.{part}").decode().splitlines()
        names = [name.partition(":")[0] for name in lines[0].split("\t")]
        return [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]

    def encoded(self, train: np.ndarray) -> tuple[Tensor, list[SlotTraffic]]:
        """Ids [n, I] by the vocabularies of the training rows, and the traffic of every feature."""
        columns, traffic, start = [], [], 0
        for name, values in self.texts.items():
            width = SEVERAL.get(name, 1)
            counts: dict[str, int] = {}
            for i in train:
                for value in values[i]:
                    counts[value] = counts.get(value, 0) + 1
            order = sorted(counts, key=lambda value: (-counts[value], value))
            id_of = {value: i + FIRST_KNOWN for i, value in enumerate(order)}
            ids = np.zeros((len(values), width), np.int64)
            for i, row in enumerate(values):
                ids[i, : len(row)] = [id_of.get(value, 1) for value in row]
            lookups = np.array([0, 0, *(counts[value] for value in order)], np.int64)
            traffic.append(SlotTraffic("all", TableSlot(name, len(lookups), start, start + width), lookups))
            columns.append(ids)
            start += width
        return torch.from_numpy(np.concatenate(columns, axis=1)), traffic


class Net(nn.Module):
    """Pairwise products of feature vectors and a two-layer network over all of them."""

    def __init__(self, slots: tuple[TableSlot, ...]) -> None:
        super().__init__()
        self.table = FusedTable(slots, WIDTH)
        nn.init.normal_(self.table.weight, std=0.01)
        pairs = torch.triu_indices(len(slots), len(slots), 1)
        self.register_buffer("pairs", pairs)
        self.dropout = nn.Dropout(0.2)
        inputs = len(slots) * WIDTH + pairs.shape[1]
        self.mlp = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1))

    def forward(self, ids_nI: Tensor) -> Tensor:
        x_nFE = self.dropout(self.table(ids_nI))
        products_nFF = x_nFE @ x_nFE.transpose(1, 2)
        products_nP = products_nFF[:, self.pairs[0], self.pairs[1]]
        return self.mlp(torch.cat((x_nFE.flatten(1), products_nP), dim=1)).squeeze(1)


def fit(slots: tuple[TableSlot, ...], parts: dict[str, tuple[Tensor, Tensor]], seed: int, epochs: int) -> Net:
    """Train; the weights of the best validation loss."""
    torch.manual_seed(seed)
    net = Net(slots)
    dense = [p for name, p in net.named_parameters() if not name.startswith("table")]
    groups = [{"params": [net.table.weight], "lr": 4e-3}, {"params": dense, "lr": 2e-3, "weight_decay": 1e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    (ids, labels), best, kept = parts["train"], float("inf"), {}
    for _ in range(epochs):
        net.train()
        for index in torch.randperm(len(ids)).split(2048):
            loss = nn.functional.binary_cross_entropy_with_logits(net(ids[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            net.eval()
            logits = net(parts["validation"][0])
            now = float(nn.functional.binary_cross_entropy_with_logits(logits, parts["validation"][1]))
        if now >= best:
            break
        best, kept = now, {k: v.detach().clone() for k, v in net.state_dict().items()}
    net.load_state_dict(kept)
    return net.eval()


@torch.no_grad()
def scored(net: Net, ids: Tensor) -> np.ndarray:
    return torch.sigmoid(net(ids)).double().numpy()


@torch.no_grad()
def with_format(net: Net, ids: Tensor, form: RowFormat) -> np.ndarray:
    """Probabilities with the rows as serving would read them."""
    before = net.table.weight.detach().clone()
    net.table.weight.copy_(unpack_rows(pack_rows(before, form), form, WIDTH))
    found = scored(net, ids)
    net.table.weight.copy_(before)
    return found


def equal_hash(
    ids: Tensor, traffic: list[SlotTraffic], fraction: float, seed: int
) -> tuple[Tensor, tuple[TableSlot, ...]]:
    """Every feature hashed into the same fraction of its rows; padding stays padding."""
    out, slots = ids.clone(), []
    for t in traffic:
        rows = max(3, round(fraction * t.slot.num_rows))
        table = torch.from_numpy(np.random.default_rng([seed, t.slot.start]).integers(1, rows, t.slot.num_rows))
        table[0] = 0
        out[:, t.slot.start : t.slot.stop] = table[ids[:, t.slot.start : t.slot.stop]]
        slots.append(dataclasses.replace(t.slot, num_rows=rows))
    return out, tuple(slots)


class Runs:
    """Every variant, of every seed; what the JSON file has already is not run again."""

    def __init__(self, path: Path | None, epochs: int) -> None:
        self.path, self.epochs, self.likes = path, epochs, Likes()
        self.results: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self.results = json.loads(path.read_text())["results"]

    def measure(self, seed: int, fraction: float) -> None:
        """The variants at one fraction of the memory; the full size at 1."""
        likes = self.likes
        order = np.random.default_rng(seed).permutation(len(likes.label))
        cut = dict(zip(("train", "validation", "test"), np.split(order, [80_000, 90_000]), strict=True))
        ids, traffic = likes.encoded(cut["train"])
        full_bytes = sum(t.slot.num_rows for t in traffic) * row_bytes("fp32", WIDTH)
        if fraction == 1.0:
            slots = tuple(t.slot for t in traffic)
            net = self._run("separate", 1.0, seed, cut, ids, slots, full_bytes, "fp32")
            if net is not None:
                test = cut["test"]
                self.results += formats(net, ids[test], likes.label[test], likes.user[test], seed)
                self._save()
            return
        hashed, slots = equal_hash(ids, traffic, fraction, seed)
        size = sum(s.num_rows for s in slots) * row_bytes("fp32", WIDTH)
        self._run("hashed", fraction, seed, cut, hashed, slots, size, "fp32")
        for name, form in (("formats", "auto"), ("planned", "fp32"))[: 2 if fraction == FRACTIONS[0] else 1]:
            plan: TablePlan = plan_tables(
                traffic, width=WIDTH, budget_bytes=int(fraction * full_bytes), row_format=form
            )
            self._run(name, fraction, seed, cut, ids, plan.slots["all"], plan.bytes, plan.row_format)

    def _run(
        self,
        name: str,
        fraction: float,
        seed: int,
        cut: dict[str, np.ndarray],
        ids: Tensor,
        slots: tuple[TableSlot, ...],
        size: int,
        form: RowFormat,
    ) -> Net | None:
        """Train and score one variant; None where that was done before."""
        found = {"variant": name, "fraction": fraction, "seed": seed, "bytes": size, "format": form}
        if any(found.items() <= r.items() for r in self.results):
            return None
        started, labels = time.perf_counter(), torch.from_numpy(self.likes.label)
        parts = {part: (ids[index], labels[index]) for part, index in cut.items()}
        net = fit(slots, parts, seed, self.epochs)
        p, label = with_format(net, parts["test"][0], form), self.likes.label[cut["test"]]
        found |= {"auc": auc(label, p), "ne": normalized_entropy(label, p)}
        when = {"when": time.strftime("%Y-%m-%d %H:%M"), "seconds": round(time.perf_counter() - started, 1)}
        self.results.append(found | when)
        print(json.dumps(self.results[-1]), flush=True)
        self._save()
        return net

    def _save(self) -> None:
        if self.path is not None:
            facts = {"machine": machine_facts("torch", "numpy") | torch_facts(), "width": WIDTH}
            told = {"summary": summary(self.results), "results": self.results}
            self.path.write_text(json.dumps(facts | told, indent=1) + "\n")


def formats(net: Net, ids: Tensor, label: np.ndarray, user: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """NE of quantised rows beside fp32, with a 95 % interval by bootstrap over users."""
    base, out = scored(net, ids), []
    _, index = np.unique(user, return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(
        index.max() + 1, np.full(index.max() + 1, 1 / (index.max() + 1)), 500
    )
    for form in ("bf16", "int8", "int4"):
        p = with_format(net, ids, form)
        losses = [-(label * np.log(q) + (1 - label) * np.log(1 - q)) for q in (base, p)]
        by_user = [np.bincount(index, loss) for loss in losses]
        changes = (draws @ by_user[1]) / (draws @ by_user[0]) - 1
        low, high = np.quantile(changes, [0.025, 0.975])
        size = row_bytes(form, WIDTH) / row_bytes("fp32", WIDTH)
        change = normalized_entropy(label, p) / normalized_entropy(label, base) - 1
        out.append({"variant": "row format", "format": form, "seed": seed, "bytes_of_fp32": size, "ne_change": change})
        out[-1] |= {"low": float(low), "high": float(high)}
        print(json.dumps(out[-1]), flush=True)
    return out


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and what each variant loses of the full size, in its standard deviations."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for r in results:
        if "auc" in r:
            grouped.setdefault(f"{r['variant']}@{r['fraction']}", []).append(r)
    full_of = {r["seed"]: r["auc"] for r in grouped["separate@1.0"]}
    full = list(full_of.values())
    spread = statistics.stdev(full) if len(full) > 1 else float("nan")
    told: dict[str, Any] = {"full_auc": statistics.mean(full), "full_auc_sd": spread}
    for name, rows in grouped.items():
        aucs = [r["auc"] for r in rows]
        lost = [full_of[r["seed"]] - r["auc"] for r in rows]
        told[name] = {
            "auc": statistics.mean(aucs),
            "ne": statistics.mean(r["ne"] for r in rows),
            "auc_lost": statistics.mean(lost),
            "auc_lost_sd": statistics.stdev(lost) if len(lost) > 1 else None,
            "mb": statistics.mean(r["bytes"] for r in rows) / 1e6,
            "formats": sorted({r["format"] for r in rows}),
        }
    for name in list(told):
        if name.startswith(("planned@", "formats@")):
            hashed = told.get("hashed@" + name.partition("@")[2], {}).get("auc_lost")
            told[name]["of_hashed_loss"] = told[name]["auc_lost"] / hashed if hashed else None
    for form in ("bf16", "int8", "int4"):
        changes = [r for r in results if r["variant"] == "row format" and r["format"] == form]
        if changes:
            told[f"{form} rows"] = {
                "ne_change": statistics.mean(r["ne_change"] for r in changes),
                "bytes_of_fp32": changes[0]["bytes_of_fp32"],
                "intervals": [[r["low"], r["high"]] for r in changes],
            }
    return told


def draw(told: dict[str, Any], path: Path) -> None:
    """The curve: AUC over megabytes of rows."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for variant in ("hashed", "planned", "formats"):
        points = sorted((v["mb"], v["auc"]) for k, v in told.items() if k.startswith(f"{variant}@"))
        figure.add_scatter(x=[p[0] for p in points], y=[p[1] for p in points], name=variant, mode="lines+markers")
    full = told["separate@1.0"]
    figure.add_scatter(x=[full["mb"]], y=[full["auc"]], name="separate tables, full size", mode="markers")
    figure.update_layout(
        xaxis_title="MB of rows", yaxis_title="test AUC", title="MovieLens-100K likes", xaxis_type="log"
    )
    figure.write_html(path, include_plotlyjs="cdn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--json", type=Path, help="what it has already is not run again")
    parser.add_argument("--html", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of the memory only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    runs = Runs(args.json, args.epochs)
    for fraction in (1.0, 0.1) if args.quick else (1.0, *FRACTIONS):
        for seed in range(1 if args.quick else args.seeds):
            runs.measure(seed, fraction)
    told = summary(runs.results)
    print(json.dumps(told, indent=1))
    if args.html is not None:
        draw(told, args.html)


if __name__ == "__main__":
    main()
