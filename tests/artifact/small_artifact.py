"""A small untrained artifact: real parts, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from depthrank.artifact import Contents, read_manifest
from depthrank.catalogue import Catalogue
from depthrank.features import FeatureEncoder, FitSample
from depthrank.model import ElasticRanker, derive_model_config
from depthrank.schema import Spec

SPEC = {
    "name": "small",
    "dataset": {
        "items": {"path": "items.csv", "id": "item"},
        "users": {"path": "users.csv", "id": "user"},
        "events": {
            "path": "e.csv",
            "user": "user",
            "item": "item",
            "time": "order",
            "action": "click",
            "context": ["device"],
        },
    },
    "features": {
        "item": {"kind": "categorical", "source": "item.id"},
        "price": {"kind": "numeric", "source": "item.price"},
        "tags": {"kind": "multi_hot", "source": "item.tags", "max_values": 2},
        "age": {"kind": "numeric", "source": "user.age"},
        "device": {"kind": "categorical", "source": "context.device"},
    },
    "tasks": {"click": {"action": "click"}},
    "value": {"weights": {"click": 1.0}},
    "history": {"length": 4},
    "model": {"preset": "demo", "width": 8, "heads": 2},
}


def make_contents(seed: int = 0, **changes: object) -> Contents:
    torch.set_num_threads(1)
    spec = Spec.from_plain(SPEC)
    items = Catalogue.build("item", ["a", "b", "c"], {"price": [1.5, None, 3.0], "tags": [["x"], [], ["x", "y"]]})
    users = Catalogue.build("user", ["u"], {"age": [30]})
    sample = FitSample(contexts={"device": ["ios", "web"]}, item_rows=np.array([1, 2, 3]), user_rows=np.array([1]))
    encoder = FeatureEncoder.fit(spec, items, users, sample)
    torch.manual_seed(seed)
    model = ElasticRanker(derive_model_config(spec, encoder.layout, (-1.0,))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_()
    plain = {"log_position": 7, "training": {"seed": seed}, "report_html": "<p>report</p>", **changes}
    return Contents(spec=spec, model=model, encoder=encoder, items=items, users=users, **plain)


def files_of(root: Path) -> Path:
    """The folder that the manifest names."""
    return root / read_manifest(root).folder
