"""DIN and DCN-V2 of torch-rechub on the rows of ``rows.py``: same ids, floats and histories, early stopping on
validation.

torch-rechub's DIN drops dense features, so floats become ids of quantile bins for it; DCN-V2 gets both. A network has
one output, so there is one a task. Settings: the better on validation of a few (``GRID``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from rows import Dataset, Rows
from torch import Tensor, nn
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.basic.initializers import RandomNormal
from torch_rechub.models.ranking import DIN, DCNv2

from depthrank.metrics import logloss

BINS = 32
BATCH = 1_024
EPOCHS = 8
PATIENCE = 1
Setting = tuple[float, int, float]  # learning rate, embedding width, weight decay
GRID: tuple[Setting, ...] = ((1e-3, 16, 1e-5), (5e-4, 8, 1e-4))
Inputs = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Probabilities of the test and validation rows, and the setting that was best on validation."""

    test_N: npt.NDArray[np.float64]
    validation_N: npt.NDArray[np.float64]
    setting: dict[str, float]
    cpu_s: float


def fit(data: Dataset, task: int, model: str, *, seed: int = 0, grid: tuple[Setting, ...] = GRID) -> Fitted:
    """``model``: "din" or "dcnv2"; ``grid``: (learning rate, embedding width, weight decay) to choose from."""
    started = time.process_time()
    edges, scale = _bin_edges(data.train.floats), _scale(data.train.floats)
    inputs = [_inputs(data, rows, edges, scale) for rows in (data.train, data.validation, data.test)]
    best: tuple[float, nn.Module, dict[str, float]] | None = None
    for rate, width, decay in grid:
        torch.manual_seed(seed)
        network = (_din if model == "din" else _dcn_v2)(data, width)
        loss, epoch = _train(network, inputs[0], inputs[1], data, task, rate, decay, seed)
        if best is None or loss < best[0]:
            best = (loss, network, {"learning_rate": rate, "width": width, "weight_decay": decay, "epochs": epoch})
    assert best is not None
    scores = [_predict(best[1], x, len(rows)) for x, rows in zip(inputs[1:], (data.validation, data.test), strict=True)]
    return Fitted(scores[1], scores[0], best[2], time.process_time() - started)


def _bin_edges(floats_NF: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.quantile(floats_NF, np.linspace(0, 1, BINS + 1)[1:-1], axis=0).astype(np.float32)


def _scale(floats_NF: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return floats_NF.mean(axis=0), np.maximum(floats_NF.std(axis=0), 1e-6)


def _inputs(
    data: Dataset,
    rows: Rows,
    edges: npt.NDArray[np.float32],
    scale: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> Inputs:
    """Arrays by feature name, [N] or [N, values]; histories stay [R, L] and are gathered by batch."""
    found: Inputs = {"_request": rows.request}
    for column in data.id_columns:
        ids = rows.ids[:, column.start : column.stop]
        found[_key(column.name)] = ids[:, 0] if ids.shape[1] == 1 else ids
    for i, name in enumerate(data.float_names):
        found[_key(f"{name}_bin")] = np.searchsorted(edges[:, i], rows.floats[:, i])
    found["dense"] = np.clip((rows.floats - scale[0]) / scale[1], -5, 5)
    found["target_item"] = rows.item
    inside = np.arange(rows.history_item.shape[1]) < rows.history_length[:, None]
    found["past_item"] = np.where(inside, rows.history_item, 0)
    for column in _attended(data):
        values = data.item_ids[:, column.start]
        found[f"target_{column.name}"] = values[rows.item]
        found[f"past_{column.name}"] = np.where(inside, values[rows.history_item], 0)
    return found


def _key(name: str) -> str:
    """A name that torch takes for a module."""
    return name.replace(".", "__")


def _attended(data: Dataset) -> list:
    """Item columns whose past values DIN attends over, besides the item itself."""
    return [c for c in data.item_columns if c.name in ("author", "tags")]


def _features(data: Dataset, width: int) -> list:
    start = RandomNormal(0, 0.01)
    found: list = []
    for column in data.id_columns:
        kind = SparseFeature if column.stop - column.start == 1 else SequenceFeature
        extra = {} if kind is SparseFeature else {"pooling": "mean", "padding_idx": 0}
        found.append(kind(_key(column.name), column.num_values, width, initializer=start, **extra))
    return found + [SparseFeature(_key(f"{name}_bin"), BINS, width, initializer=start) for name in data.float_names]


def _din(data: Dataset, width: int) -> nn.Module:
    start = RandomNormal(0, 0.01)
    sizes = {"item": len(data.item_ids), **{c.name: c.num_values for c in _attended(data)}}
    target = [SparseFeature(f"target_{n}", v, width, initializer=start) for n, v in sizes.items()]
    past = [
        SequenceFeature(f"past_{n}", v, width, pooling="concat", shared_with=f"target_{n}") for n, v in sizes.items()
    ]
    return DIN(
        _features(data, width),
        past,
        target,
        mlp_params={"dims": [256, 128], "dropout": 0.2},
        attention_mlp_params={"dims": [64, 32]},
    )


def _dcn_v2(data: Dataset, width: int) -> nn.Module:
    features = [*_features(data, width), DenseFeature("dense", len(data.float_names))]
    return DCNv2(features, n_cross_layers=3, mlp_params={"dims": [256, 128], "dropout": 0.2})


def _batches(inputs: Inputs, order: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Tensor]]]:
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        request = inputs["_request"][rows]
        chosen = {
            name: values[request] if name.startswith("past_") else values[rows]
            for name, values in inputs.items()
            if name != "_request"
        }
        yield rows, {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in chosen.items()}


def _train(
    network: nn.Module,
    train: Inputs,
    validation: Inputs,
    data: Dataset,
    task: int,
    rate: float,
    decay: float,
    seed: int,
) -> tuple[float, int]:
    """Leaves the best weights in place; the loss on validation and the epoch they come from."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)
    label = torch.from_numpy(data.train.label[:, task])
    best_loss, best_epoch, weights = np.inf, 0, {}
    for epoch in range(EPOCHS):
        network.train()
        order = np.random.default_rng((seed, epoch)).permutation(len(data.train))
        for rows, x in _batches(train, order):
            loss = nn.functional.binary_cross_entropy(network(x), label[torch.from_numpy(rows)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = logloss(
            data.validation.label[:, task].astype(np.float64), _predict(network, validation, len(data.validation))
        )
        if found < best_loss:
            best_loss, best_epoch = found, epoch + 1
            weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
        elif epoch + 1 - best_epoch > PATIENCE:
            break
    network.load_state_dict(weights)
    return float(best_loss), best_epoch


@torch.no_grad()
def _predict(network: nn.Module, inputs: Inputs, num_rows: int) -> npt.NDArray[np.float64]:
    network.eval()
    parts = [network(x).numpy() for _, x in _batches(inputs, np.arange(num_rows))]
    return np.concatenate(parts).astype(np.float64)


Fit = Callable[[Dataset, int, str], Fitted]
