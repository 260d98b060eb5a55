"""SASRec on MovieLens-1M: the rival of the router, trained with full softmax over all 3,416 items.

    python benchmarks/quality/ml1m_sasrec.py [--cpu-seconds 1200] [--width 64] [--seed 0] [--json F]

Kang and McAuley, ICDM 2018: learned positions, causal self-attention in two pre-norm blocks, ReLU feed-forward,
dropout, item embeddings tied between input and output. The loss is cross-entropy over the catalogue instead of one
sampled negative, which is what makes SASRec strong (Klenitskiy and Vasilev, RecSys 2023). Sequences longer than the
window are cut into windows with a new phase every epoch, so that every event trains. The learning rate anneals to the
budget; the epoch with the best validation NDCG@10 counts. Protocol: last event test, last but one validation, all items
but those seen.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthrank.cli.threads import keep_freed_memory
from depthrank.training.catalogue_softmax import catalogue_softmax

DATA = Path(__file__).resolve().parents[2].parent / "shared/data/ml1m/ml-1m.txt"
WINDOW = 200


@dataclass(frozen=True)
class Settings:
    """What a run is."""

    cpu_seconds: float = 1200.0
    width: int = 64
    heads: int = 2
    blocks: int = 2
    dropout: float = 0.2
    batch: int = 64
    learning_rate: float = 1e-3
    max_epochs: int = 200
    seed: int = 0


class Block(nn.Module):
    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.heads = s.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(s.width), nn.LayerNorm(s.width)
        self.qkv, self.out = nn.Linear(s.width, 3 * s.width), nn.Linear(s.width, s.width)
        self.up, self.down = nn.Linear(s.width, s.width), nn.Linear(s.width, s.width)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x_SLD: Tensor) -> Tensor:
        s, length, width = x_SLD.shape
        q, k, v = self.qkv(self.norm_1(x_SLD)).view(s, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(ahead, -1e9).softmax(-1) @ v
        x_SLD = x_SLD + self.dropout(self.out(mixed.transpose(1, 2).reshape(s, length, width)))
        return x_SLD + self.dropout(self.down(F.relu(self.up(self.norm_2(x_SLD)))))


class SASRec(nn.Module):
    def __init__(self, s: Settings, num_rows: int) -> None:
        super().__init__()
        self.item = nn.Embedding(num_rows, s.width)
        self.place = nn.Embedding(WINDOW, s.width)
        self.bias = nn.Parameter(torch.zeros(num_rows))
        for table in (self.item, self.place):
            nn.init.normal_(table.weight, std=s.width**-0.5)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.blocks))
        self.norm, self.dropout = nn.LayerNorm(s.width), nn.Dropout(s.dropout)

    def forward(self, rows_SL: Tensor) -> Tensor:
        x_SLD = self.dropout(self.item(rows_SL) + self.place.weight[: rows_SL.shape[1]])
        for block in self.blocks:
            x_SLD = block(x_SLD)
        return self.norm(x_SLD)


def sequences(path: Path) -> list[np.ndarray]:
    """Item rows (from 1) of each user, oldest first."""
    pairs = np.loadtxt(path, dtype=np.int64)
    order = np.argsort(pairs[:, 0], kind="stable")
    users = pairs[order, 0]
    return np.split(pairs[order, 1], np.flatnonzero(np.diff(users)) + 1)


def windows(train: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Windows of at most WINDOW + 1 events (input and shifted target), neighbours sharing one event."""
    found = []
    for events in train:
        stop = len(events)
        first = int(rng.integers(WINDOW // 2, WINDOW + 1)) if stop > WINDOW + 1 else WINDOW
        while stop > 1:
            found.append(events[max(0, stop - first - 1) : stop])
            stop, first = stop - first, WINDOW
    return found


def batches(train: list[np.ndarray], size: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Batches of windows of like length (little padding), in random order; a batch of short ones holds more."""
    cut = windows(train, rng)
    order = np.argsort([len(w) + 20 * rng.random() for w in cut])
    groups, start = [], 0
    while start < len(order):
        longest, stop = 0, start
        while stop < len(order) and (stop - start + 1) * max(longest, len(cut[order[stop]])) <= size * WINDOW:
            longest, stop = max(longest, len(cut[order[stop]])), stop + 1
        groups.append([cut[i] for i in order[start : max(stop, start + 1)]])
        start = max(stop, start + 1)
    return [groups[i] for i in rng.permutation(len(groups))]


def padded(windows_S: list[np.ndarray]) -> Tensor:
    """int64 [S, L], zeros after the end."""
    out = np.zeros((len(windows_S), max(map(len, windows_S))), np.int64)
    for row, window in zip(out, windows_S, strict=True):
        row[: len(window)] = window
    return torch.from_numpy(out)


@torch.inference_mode()
def ranks(model: SASRec, seqs: list[np.ndarray], held_out: int) -> np.ndarray:
    """Rank (from 1) of each user's ``held_out``-th last item among all items not seen before it, int64 [users]."""
    model.eval()
    found = np.zeros(len(seqs), np.int64)
    order = np.argsort([len(s) for s in seqs])
    for start in range(0, len(order), 128):
        users = order[start : start + 128]
        before = [seqs[u][:-held_out] for u in users]
        recent = [b[-WINDOW:] for b in before]
        last_SD = model(padded(recent))[torch.arange(len(users)), torch.tensor([len(r) - 1 for r in recent])]
        scores = last_SD @ model.item.weight.T + model.bias
        own = scores[torch.arange(len(users)), torch.tensor([int(seqs[u][-held_out]) for u in users])].clone()
        for row, b in zip(scores, before, strict=True):
            row[torch.from_numpy(b)] = -torch.inf
        scores[:, 0] = -torch.inf
        found[users] = (1 + (scores > own.unsqueeze(1)).sum(1)).numpy()
    model.train()
    return found


def figures(rank: np.ndarray) -> dict[str, float]:
    """NDCG@10 and R@10 (one relevant item)."""
    return {
        "ndcg@10": float(np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0).mean()),
        "r@10": float((rank <= 10).mean()),
    }


def train(seqs: list[np.ndarray], s: Settings) -> tuple[SASRec, dict[str, object]]:
    """Train within ``cpu_seconds`` of process time (evaluation included); the best validation epoch's weights."""
    started, rng = time.process_time(), np.random.default_rng(s.seed)
    torch.manual_seed(s.seed)
    model = SASRec(s, 1 + max(int(q.max()) for q in seqs))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=s.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    kept, best, history, step, events = {}, -1.0, [], 0, 0
    training = [q[:-2] for q in seqs]
    for epoch in range(s.max_epochs):
        for group in batches(training, s.batch, rng):
            done = (time.process_time() - started) / s.cpu_seconds
            if done >= 1:
                break
            rate = s.learning_rate * min(1.0, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
            optimizer.param_groups[0]["lr"] = rate
            rows = padded(group)
            inputs, targets = rows[:, :-1], rows[:, 1:]
            real = targets > 0
            loss = catalogue_softmax(model(inputs)[real], model.item.weight, model.bias, targets[real]) / real.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step, events = step + 1, events + int(real.sum())
        validation = figures(ranks(model, seqs, 2))
        cpu_s = time.process_time() - started
        history.append({"epoch": epoch + 1, "cpu_s": round(cpu_s), "loss": float(loss.detach()), **validation})
        print(json.dumps(history[-1]), flush=True)
        if validation["ndcg@10"] > best:
            best, kept = validation["ndcg@10"], {k: v.clone() for k, v in model.state_dict().items()}
        if cpu_s >= s.cpu_seconds:
            break
    model.load_state_dict(kept)
    return model, {
        "epochs": len(history),
        "steps": step,
        "events": events,
        "cpu_s": time.process_time() - started,
        "history": history,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    for name in ("cpu_seconds", "learning_rate", "dropout"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(Settings, name))
    for name in ("width", "heads", "blocks", "batch", "max_epochs", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Settings, name))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ranks", type=Path, help="test ranks, for paired intervals (.npy, users in file order)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("medium")
    keep_freed_memory()
    s = Settings(**{name: getattr(arguments, name) for name in Settings.__dataclass_fields__})
    seqs = sequences(arguments.data)
    model, run = train(seqs, s)
    rank = ranks(model, seqs, 1)
    result = {"settings": s.__dict__, "test": figures(rank), **run}
    print(json.dumps(result["test"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    if arguments.ranks:
        np.save(arguments.ranks, rank)


if __name__ == "__main__":
    main()
