"""An untrained artifact with tables of any size, written in one pass: real parts, random rows, no vocabulary to build.

Titles of items and the query of a request are hashed into tables of so many rows; the dense part is a small preset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from depthrank.artifact import Contents, save_artifact, with_level_flops
from depthrank.catalogue import Catalogue
from depthrank.features import FeatureEncoder, FitSample
from depthrank.model import ElasticRanker, derive_model_config
from depthrank.schema import Spec
from depthrank.tables import FusedTable, ServedTable, rows_left_out

WORDS = 5_000


def spec_of(item_rows: int, request_rows: int, width: int) -> dict[str, Any]:
    return {
        "name": "synthetic",
        "dataset": {
            "items": {"path": "items.csv", "id": "item"},
            "events": {
                "path": "e.csv",
                "user": "user",
                "item": "item",
                "time": "order",
                "action": "click",
                "context": ["query"],
            },
        },
        "features": {
            "title": {"kind": "text", "source": "item.title", "buckets": item_rows, "max_values": 4},
            "query": {"kind": "text", "source": "context.query", "buckets": request_rows, "max_values": 4},
            "price": {"kind": "numeric", "source": "item.price"},
        },
        "tasks": {"click": {"action": "click"}},
        "value": {"weights": {"click": 1.0}},
        "history": {"length": 50},
        "model": {"preset": "demo", "width": width, "heads": 4},
    }


class RandomRows:
    """fp32 rows that are one block of random rows over and over, padding rows zeros; nothing of their size is held."""

    form = "fp32"

    def __init__(self, num_rows: int, width: int, padding: torch.Tensor, seed: int) -> None:
        self.num_rows, self.width, self._padding = num_rows, width, padding
        self._block = torch.randn(65_521, width, generator=torch.Generator().manual_seed(seed)) * width**-0.5

    def packed_rows(self, row_n: torch.Tensor) -> torch.Tensor:
        x_nD = self._block[row_n % self._block.shape[0]]
        x_nD[torch.isin(row_n, self._padding)] = 0.0
        return x_nD

    rows = packed_rows

    def pooled(self, row_m: torch.Tensor, offset_b: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("only written")


def write_artifact(out: Path, *, item_rows: int, request_rows: int, items: int, width: int = 64, seed: int = 0) -> Path:
    """Write the artifact; its item table has about ``item_rows`` rows of the model's table width."""
    spec = Spec.from_plain(spec_of(item_rows, request_rows, width))
    words = [f"word{k}" for k in range(WORDS)]
    rng = np.random.default_rng(seed)
    titles = [" ".join(words[k] for k in row) + f" no{i}" for i, row in enumerate(rng.integers(0, WORDS, (items, 3)))]
    catalogue = Catalogue.build("item", [f"i{k}" for k in range(items)], {"title": titles, "price": rng.random(items)})
    rows = np.arange(1, items + 1)
    sample = FitSample(contexts={"query": titles[:1000]}, item_rows=rows[:1000])
    encoder = FeatureEncoder.fit(spec, catalogue, None, sample)
    torch.manual_seed(seed)
    with rows_left_out():
        model = ElasticRanker(derive_model_config(spec, encoder.layout, (-1.0,))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("table.weight") and not parameter.any():
                parameter.normal_(0.0, 0.05)
    for k, side in enumerate(("item", "request", "candidate")):
        features = getattr(model, f"{side}_features")
        if isinstance(features.table, FusedTable):
            table = features.table
            source = RandomRows(table.weight.shape[0], table.width, table.row_map.padding_rows(), seed + k)
            features.table = ServedTable(table.slots, table.width, source)
    facts = with_level_flops({}, model.config)
    save_artifact(out, Contents(spec, model, encoder, catalogue, None, log_position=-1, training=facts))
    return out
