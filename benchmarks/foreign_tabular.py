"""Tabular and layer libraries as rankers: widedeep, tab-transformer, tabnet, fuxictr's layers, rectools.

What ``foreign_libraries`` adds to its list; a table's first columns are the user's, its last the item's.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

NUM_ROWS, NUM_IDS, LENGTH, WIDTH = 12, 20, 10, 8
Built = tuple[str, Callable[[], tuple[nn.Module, Any, Any]]]


class Absent(ModuleType):
    """A module that a library imports and its models never use (tokenizers, solvers)."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


def import_library(name: str) -> ModuleType:
    """A library, whatever it imports beside torch and does not find being absent; raises ``ImportError`` for itself."""
    if name == "pytorch_widedeep":
        importlib.import_module("transformers")  # it asks what is installed before anything stands in for it
    absent: list[str] = []
    try:
        while len(absent) < 60:
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] in (name.partition(".")[0], "torch"):
                    raise
                sys.modules[error.name] = Absent(error.name)
                absent.append(error.name)
    finally:
        for stand_in in absent:  # torch asks for some of them later
            sys.modules.pop(stand_in, None)
    raise ImportError(f"{name} imports too much that is not installed")


def ids(*sizes: int) -> Tensor:
    return torch.randint(1, NUM_IDS, (NUM_ROWS, *sizes))


def pytorch_widedeep() -> Iterator[Built]:
    """One float matrix: three categories and a number of the user, two and a number of the item, a history for DIN."""
    models = importlib.import_module("pytorch_widedeep.models")
    rec = importlib.import_module("pytorch_widedeep.models.rec")
    names = ["user", "age", "city", "clicks", "item", "brand", "price"]
    columns = {n: k for k, n in enumerate(names)}
    cats, numbers = ["user", "age", "city", "item", "brand"], ["clicks", "price"]
    with_sizes, without = [(n, NUM_IDS, WIDTH) for n in cats], [(n, NUM_IDS) for n in cats]
    x = torch.cat([ids(3).float(), torch.randn(NUM_ROWS, 1), ids(2).float(), torch.randn(NUM_ROWS, 1)], 1)
    mixed = {"column_idx": columns, "continuous_cols": numbers}
    shared: dict[str, Any] = {**mixed, "cat_embed_input": with_sizes}
    tokens: dict[str, Any] = {**mixed, "cat_embed_input": without}
    made: dict[str, Callable[[], nn.Module]] = {
        "TabMlp": lambda: models.TabMlp(**shared, mlp_batchnorm=True),
        "TabResnet": lambda: models.TabResnet(**shared, blocks_dims=[32, 32, 16]),
        "TabNet": lambda: models.TabNet(**shared),
        "ContextAttentionMLP": lambda: models.ContextAttentionMLP(**tokens, input_dim=WIDTH),
        "SelfAttentionMLP": lambda: models.SelfAttentionMLP(**tokens, input_dim=WIDTH, n_heads=2),
        "TabTransformer": lambda: models.TabTransformer(**tokens, input_dim=WIDTH, n_heads=2, n_blocks=2),
        "SAINT": lambda: models.SAINT(**tokens, input_dim=WIDTH, n_heads=2, n_blocks=1),
        "FTTransformer": lambda: models.FTTransformer(**tokens, input_dim=WIDTH, n_heads=2, n_blocks=2),
        "TabPerceiver": lambda: models.TabPerceiver(
            **tokens, input_dim=WIDTH, n_latents=4, latent_dim=16, n_perceiver_blocks=2
        ),
        "TabFastFormer": lambda: models.TabFastFormer(**tokens, input_dim=WIDTH, n_heads=2, n_blocks=2),
        "WideDeep": lambda: models.WideDeep(deeptabular=models.TabMlp(**shared)),
        "DeepFM": lambda: rec.DeepFactorizationMachine(**tokens, num_factors=WIDTH, mlp_hidden_dims=[32, 16]),
        "DCN": lambda: rec.DeepCrossNetwork(**shared, mlp_hidden_dims=[32, 16]),
        "DCN-V2": lambda: rec.DeepCrossNetworkV2(**shared, low_rank=4, mlp_hidden_dims=[32, 16]),
        "GDCN": lambda: rec.GatedDeepCrossNetwork(**shared, mlp_hidden_dims=[32, 16]),
        "AutoInt": lambda: rec.AutoInt(**tokens, input_dim=WIDTH, num_heads=2),
        "AutoIntPlus": lambda: rec.AutoIntPlus(**tokens, input_dim=WIDTH, num_heads=2),
        "xDeepFM": lambda: rec.ExtremeDeepFactorizationMachine(
            **tokens, input_dim=WIDTH, cin_layer_dims=[8, 4], mlp_hidden_dims=[32, 16]
        ),
    }

    def build(make: Callable[[], nn.Module]) -> tuple[nn.Module, Any, Any]:
        model = make()
        if isinstance(model, models.WideDeep):
            return model, {"X": {"deeptabular": x}}, {"deeptabular": slice(0, 4)}
        head = nn.Sequential(model, nn.Linear(model.output_dim, 1)) if model.output_dim > 1 else model
        return head, x, {("input" if isinstance(head, nn.Sequential) else "X"): slice(0, 4)}

    for name, make in made.items():
        yield name, lambda make=make: build(make)
    rows = [f"h{k}" for k in range(LENGTH)]
    places = {"user": 0, **{n: 1 + k for k, n in enumerate(rows)}, "target_item": 1 + LENGTH, "brand": 2 + LENGTH}
    for activation in ("prelu", "dice"):
        yield f"DIN {activation}", lambda activation=activation: (
            rec.DeepInterestNetwork(
                column_idx=places, user_behavior_confiq=(rows, NUM_IDS, WIDTH), mlp_hidden_dims=[16, 8],
                attention_unit_activation=activation,
                cat_embed_input=[("user", NUM_IDS, WIDTH), ("brand", NUM_IDS, WIDTH)],
            ), ids(3 + LENGTH).float(), {"X": slice(0, 1 + LENGTH)},
        )  # fmt: skip


def tab_transformer_pytorch() -> Iterator[Built]:
    """Categories and numbers, the first half of each the user's."""
    library = importlib.import_module("tab_transformer_pytorch")
    example = (ids(4), torch.randn(NUM_ROWS, 4))
    sizes = {"categories": (NUM_IDS,) * 4, "num_continuous": 4, "dim": 32, "depth": 2, "heads": 4, "dim_out": 1}
    for name in ("TabTransformer", "FTTransformer"):
        yield name, lambda name=name: (
            getattr(library, name)(**sizes), example, {"x_categ": slice(0, 2), "x_cont": slice(0, 2)},
        )  # fmt: skip


class First(nn.Module):
    """The first output of a module that returns a loss over the batch beside its scores."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)[0]
        return out


def pytorch_tabnet() -> Iterator[Built]:
    """Sequential attention with sparsemax or entmax; with its loss (a mean over the batch), and without."""
    network = importlib.import_module("pytorch_tabnet.tab_network")
    x = torch.cat([ids(3).float(), torch.randn(NUM_ROWS, 5)], 1)
    sizes: dict[str, Any] = {"cat_idxs": [0, 1, 2], "cat_dims": [NUM_IDS] * 3, "cat_emb_dim": [4] * 3}

    def build(mask: str) -> nn.Module:
        model: nn.Module = network.TabNet(8, 1, **sizes, mask_type=mask, group_attention_matrix=torch.eye(8))
        return model

    first = {"x": [0, 1, 3, 4, 5]}
    yield "TabNet with its loss", lambda: (build("sparsemax"), x, first)
    for mask in ("sparsemax", "entmax"):
        yield f"TabNet {mask}", lambda mask=mask: (First(build(mask)), x, first)


class Fields(nn.Module):
    """Field embeddings through one layer of a library, flattened to a head."""

    def __init__(self, layer: nn.Module, flat: bool) -> None:
        super().__init__()
        self.table, self.layer, self.flat = nn.Embedding(NUM_IDS, WIDTH), layer, flat
        self.head = nn.LazyLinear(1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.table(x)
        out: Tensor = self.layer(rows.flatten(1) if self.flat else rows)
        return torch.sigmoid(self.head(out.flatten(1)))


class Target(nn.Module):
    """A candidate and its history through a target attention of a library."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.table, self.attention, self.head = nn.Embedding(NUM_IDS, WIDTH, padding_idx=0), attention, nn.LazyLinear(1)

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        target = self.table(item)
        read = self.attention(target, self.table(history), history > 0)
        return self.head(torch.cat([target, read], -1)).squeeze(-1)


def fuxictr() -> Iterator[Built]:
    """The interaction and attention layers of FuxiCTR 2.3, each as a small ranker."""
    layers = importlib.import_module("fuxictr.pytorch.layers")
    fields, total = 6, 6 * WIDTH
    made: dict[str, tuple[Callable[[], nn.Module], bool]] = {
        "CrossNet": (lambda: layers.CrossNet(total, 3), True),
        "CrossNetV2": (lambda: layers.CrossNetV2(total, 3), True),
        "CrossNetMix": (lambda: layers.CrossNetMix(total, 2, 8, 3), True),
        "CIN": (lambda: layers.CompressedInteractionNet(fields, [8, 4]), False),
        "Bilinear": (lambda: layers.BilinearInteraction(fields, WIDTH), False),
        "BilinearV2 each": (lambda: layers.BilinearInteractionV2(fields, WIDTH, "field_each"), False),
        "BilinearV2 interaction": (lambda: layers.BilinearInteractionV2(fields, WIDTH), False),
        "InnerProduct": (lambda: layers.InnerProductInteraction(fields, "inner_product"), False),
        "FM": (lambda: layers.InnerProductInteraction(fields, "product_sum"), False),
        "Bi-interaction": (lambda: layers.InnerProductInteraction(fields, "bi_interaction"), False),
        "Holographic": (lambda: layers.HolographicInteraction(fields), False),
        "InteractionMachine": (lambda: layers.InteractionMachine(WIDTH, order=4, batch_norm=True), False),
        "SENET": (lambda: layers.SqueezeExcitation(fields), False),
    }

    def build(make: Callable[[], nn.Module], flat: bool) -> tuple[nn.Module, Any, Any]:
        model, x = Fields(make(), flat), ids(fields)
        model(x)
        return model, x, {"x": slice(0, 4)}

    for name, (make, flat) in made.items():
        yield name, lambda make=make, flat=flat: build(make, flat)

    def attend(make: Callable[[], nn.Module]) -> tuple[nn.Module, Any, Any]:
        model = Target(make())
        history = ids(LENGTH)
        history[:, 7:] = torch.where(torch.rand(NUM_ROWS, 3) < 0.5, history[:, 7:], 0)
        model(history, ids())
        return model, (history, ids()), ["history"]

    yield "DIN_Attention", lambda: attend(lambda: layers.DIN_Attention(WIDTH, [16], "ReLU"))
    yield (
        "DIN_Attention Dice softmax",
        lambda: attend(lambda: layers.DIN_Attention(WIDTH, [16], "Dice", use_softmax=True)),
    )
    yield "MultiHeadTargetAttention", lambda: attend(lambda: layers.MultiHeadTargetAttention(WIDTH, 8, 2))


class Session(nn.Module):
    """A rectools backbone: sessions against one candidate."""

    def __init__(self, causal: bool, padding: bool) -> None:
        super().__init__()
        nets = import_library("rectools.models.nn.transformers.net_blocks")
        sasrec = import_library("rectools.models.nn.transformers.sasrec")
        self.items, self.causal, self.padding = nn.Embedding(NUM_IDS, 32, padding_idx=0), causal, padding
        self.positions = nets.LearnableInversePositionalEncoding(True, LENGTH, 32)
        kind = sasrec.SASRecTransformerLayers if causal else nets.PreLNTransformerLayers
        self.layers = kind(n_blocks=2, n_factors=32, n_heads=4, dropout_rate=0.1)

    def forward(self, x: Tensor, item: Tensor) -> Tensor:
        seqs = self.positions(self.items.weight[x])
        mask = ~torch.tril(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)) if self.causal else None
        seqs = self.layers(seqs, (x != 0).unsqueeze(-1), mask, x == 0 if self.padding else None)
        return (seqs[:, -1] * self.items(item)).sum(-1)


def rectools() -> Iterator[Built]:
    """Its SASRec and BERT4Rec layers."""
    history = torch.where(torch.arange(LENGTH) < torch.randint(0, LENGTH, (NUM_ROWS, 1)), 0, ids(LENGTH))
    yield "SASRec layers", lambda: (Session(True, False), (history, ids()), ["x"])
    yield "BERT4Rec layers", lambda: (Session(False, True), (history, ids()), ["x"])


TABULAR: dict[str, Callable[[], Iterator[Built]]] = {
    f.__name__: f for f in (pytorch_widedeep, tab_transformer_pytorch, pytorch_tabnet, fuxictr, rectools)
}
