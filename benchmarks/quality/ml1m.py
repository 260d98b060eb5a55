"""MovieLens-1M: every level of a trained artifact against SASRec, with paired intervals by bootstrap over users.

    python recipes/ml1m/prepare.py
    depthrank train work/ml1m/ranking.yaml --out work/ml1m/artifact --log lmdb:work/ml1m/events
    python benchmarks/quality/ml1m_sasrec.py --cpu-seconds 1200 --ranks work/ml1m/sasrec.npy
    python benchmarks/quality/ml1m.py work/ml1m/artifact --log lmdb:work/ml1m/events --sasrec work/ml1m/sasrec.npy

The router ranks all items but those seen. Deeper levels rank the router's ``--width`` highest of them, as a plan does
when serving: a positive that is not among those keeps the router's rank. ``recall@k``: share of the deepest level's top
10 inside a level's top k, both within that width.

Legend: R requests, V items, C candidates a request, K tasks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from depthrank.artifact import load_artifact
from depthrank.cli.threads import set_torch_threads
from depthrank.data import BatchLoader, load_dataset, load_examples
from depthrank.data.candidates import OwnCandidates, SeenItems
from depthrank.events import open_log
from depthrank.features import Counters, Encoded
from depthrank.metrics import mean_difference, mean_interval
from depthrank.model import ElasticRanker
from depthrank.model.encoded_inputs import candidate_inputs
from depthrank.schema import Spec
from depthrank.training.batch_inputs import ItemColumns, to_step_inputs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine_facts import machine_facts

RECALL_KS = (10, 20, 50, 100)
CHUNK = 128


@torch.inference_mode()
def ranks(
    model: ElasticRanker, batch: Any, seen_rows: tuple[np.ndarray, np.ndarray], items: ItemColumns, width: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rank (from 1) of each request's positive at each level [R, levels], and by level where it puts the deepest
    level's top 10, [R, 10]."""
    side = model.encode_items(items.ids_VI, items.floats_VF)
    inputs = to_step_inputs(batch, items, np.arange(len(batch)))
    begun = model.begin(inputs.deep, side)
    found, places = [], []
    for start in range(0, len(batch), CHUNK):
        own_R = torch.arange(start, min(start + CHUNK, len(batch)))
        state, every = begun.select(own_R), torch.arange(len(own_R))
        logits_RV = model.router.over_catalogue(state.user, side, 0, every)
        positive_R = torch.from_numpy(batch.item_row)[own_R]
        own = logits_RV[every, positive_R].clone()
        in_chunk = (seen_rows[0] >= start) & (seen_rows[0] < start + CHUNK)
        logits_RV[
            torch.from_numpy(seen_rows[0][in_chunk] - start), torch.from_numpy(seen_rows[1][in_chunk])
        ] = -torch.inf
        logits_RV[:, 0] = -torch.inf
        logits_RV[every, positive_R] = own
        routed_R = 1 + (logits_RV > own.unsqueeze(1)).sum(1)
        top_RC = logits_RV.topk(width, dim=1).indices
        request_N = every.repeat_interleave(width)
        nothing = Encoded(np.zeros((len(request_N), 0), np.int32), np.zeros((len(request_N), 0), np.float32))
        candidates = candidate_inputs(nothing, top_RC.flatten().numpy(), request_N.numpy())
        levels = [x[:, 0].view(-1, width) for x in model.levels_from(state, side, candidates)]
        is_own = top_RC == positive_R.unsqueeze(1)
        deeper = [1 + (x > x.masked_fill(~is_own, -torch.inf).amax(1, keepdim=True)).sum(1) for x in levels[1:]]
        kept = [torch.where(is_own.any(1), rank, routed_R) for rank in deeper]
        found.append(torch.stack([routed_R, *kept], 1).numpy())
        top_RT = levels[-1].topk(10, dim=1).indices
        places.append([x.argsort(1, descending=True).argsort(1).gather(1, top_RT).numpy() for x in levels])
    return np.concatenate(found), [np.concatenate(level) for level in zip(*places, strict=True)]


def ndcg(rank: np.ndarray) -> np.ndarray:
    """NDCG@10 of one relevant item at ``rank``."""
    return np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--spec", type=Path, default=Path("work/ml1m/ranking.yaml"))
    parser.add_argument("--log", required=True)
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="choose on validation")
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--sasrec", type=Path, help="ranks of the rival (.npy, users in the order of their numbers)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    set_torch_threads(arguments.threads)
    started = time.process_time()
    loaded, spec = load_artifact(arguments.artifact), Spec.load(arguments.spec)
    raw = load_dataset(spec)
    examples = load_examples(spec, raw)
    items, seen = ItemColumns(loaded.encoder.encode_items(raw.items)), SeenItems(examples)
    found, places, users = [], [], []
    with open_log(arguments.log) as log:
        counters = Counters.rebuild(spec, log, raw.items, raw.users)
        same = {"encoder": loaded.encoder, "log": log, "counters": counters, "items": raw.items, "users": raw.users}
        own = OwnCandidates(examples)
        for batch in BatchLoader(examples, arguments.split, spec, source=own, share_histories=True, **same):
            rank, place = ranks(loaded.model.eval(), batch, seen.of(batch.example), items, arguments.width)
            found.append(rank), places.append(place), users.extend(int(u) for u in batch.user)
    order = np.argsort(users)
    rank, user = np.concatenate(found)[order], np.sort(users)
    gain = ndcg(rank)
    result: dict[str, Any] = {
        "machine": machine_facts("torch", "numpy"),
        "split": arguments.split,
        "users": len(user),
        "width": arguments.width,
        "levels": [],
    }
    for level in range(rank.shape[1]):
        inside = np.concatenate([p[level] for p in places])
        result["levels"].append(
            {
                "ndcg@10": mean_interval(gain[:, level], user).to_plain(),
                "r@10": float((rank[:, level] <= 10).mean()),
                "recall@k": {str(k): float((inside < k).mean()) for k in RECALL_KS if k < arguments.width},
            }
        )
    result["deepest_over_router"] = mean_difference(gain[:, -1], gain[:, 0], user).to_plain()
    if arguments.sasrec:
        rival = ndcg(np.load(arguments.sasrec))
        result["sasrec_ndcg@10"] = float(rival.mean())
        result["over_sasrec"] = [
            mean_difference(gain[:, level], rival, user).to_plain() for level in range(rank.shape[1])
        ]
    result["cpu_s"] = round(time.process_time() - started)
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
