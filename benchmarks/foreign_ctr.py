"""Libraries of click-rate models as rankers: mlgb, rec_pangu, funrec, FuxiCTR's models over long histories.

What ``foreign_libraries`` adds to its list; the models stand at their libraries' own defaults unless a size is needed.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foreign_tabular import import_library

NUM_ROWS, NUM_IDS, LENGTH, WIDTH = 12, 20, 10, 8
Built = tuple[str, Callable[[], tuple[nn.Module, Any, Any]]]
USER, ITEM = ("user", "age", "city"), ("item", "brand")


def ids(*sizes: int) -> Tensor:
    return torch.randint(1, NUM_IDS, (NUM_ROWS, *sizes))


def history(length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Ids [B, L] padded with 0 behind, and lengths [B] of at least two."""
    lengths = torch.randint(2, length + 1, (NUM_ROWS,))
    return torch.where(torch.arange(length) < lengths.unsqueeze(1), ids(length), 0), lengths


def mlgb() -> Iterator[Built]:
    """Numbers [B, 2] and ids [B, F]; two groups of them, with histories [B, F, L], where a model takes them apart."""
    ranking = import_library("mlgb.torch.models.ranking")
    tasks, matching = import_library("mlgb.torch.models.mtl"), import_library("mlgb.torch.models.matching")

    def numbers(*names: str) -> tuple[dict[str, Any], ...]:
        return tuple({"feature_name": n} for n in names)

    def categories(names: tuple[str, ...], length: int = 1) -> tuple[dict[str, Any], ...]:
        return tuple({"feature_name": n, "input_length": length, "mask_zero": True, "feature_nunique": NUM_IDS,
                      "embed_feature_nunique": NUM_IDS + 1, "embed_dim": WIDTH} for n in names)  # fmt: skip

    flat = (numbers("clicks", "price"), categories((*USER, *ITEM)))
    user, item = (numbers("clicks"), categories(USER)), (numbers("price"), categories(ITEM))
    seq = (*user, categories(("seen", "bought", "liked"), LENGTH))
    rows, history_rows = torch.randn(NUM_ROWS, 2), torch.stack([history()[0] for _ in range(3)], 1)
    x = [rows, ids(5)]
    pair = [[rows[:, :1], ids(3)], [rows[:, 1:], ids(2)]]
    pair_seq = [[rows[:, :1], ids(3), history_rows], pair[1]]
    plain = _names(
        "LR MLP DLRM MaskNet DCM DCN EDCN FM FFM HOFM FwFM FEFM FmFM AFM LFM IM IFM DIFM FNN PNN PIN ONN AFN "
        "NFM WDL DeepFM DeepFEFM DeepIM FLEN CCPM FGCNN XDeepFM FiBiNet AutoInt"
    )
    for name in plain:
        kind = getattr(ranking, name)
        yield name, lambda kind=kind: ready(kind(flat), (x,), {"inputs.0": slice(0, 1), "inputs.1": slice(0, 3)})
    for name in ["SharedBottom", "ESMM", "MMoE", "PLE", "PEPNet"]:
        kind = getattr(tasks, name)
        yield name, lambda kind=kind: ready(kind(flat), (x,), {"inputs.0": slice(0, 1), "inputs.1": slice(0, 3)})
    yield "PLM", lambda: ready(ranking.PLM((user, item)), (pair,), ["inputs.0"])
    for name in _names("GRU4Rec Caser SASRec BERT4Rec BST DIN DIEN DSIN"):
        kind = getattr(ranking, name)
        yield name, lambda kind=kind: ready(kind((seq, item)), (pair_seq,), ["inputs.0"])
    for name in ["NCF", "DSSM", "MatchFM", "EBR"]:
        kind = getattr(matching, name)
        yield name, lambda kind=kind: ready(kind((user, item)), (pair,), ["inputs.0"])
    for name in ("YoutubeDNN", "MIND"):
        kind = getattr(matching, name)
        yield name, lambda kind=kind: ready(kind((seq, item)), (pair_seq,), ["inputs.0"])


def ready(model: nn.Module, example: tuple[Any, ...], request: Any) -> tuple[nn.Module, Any, Any]:
    """The model after one call, which makes the layers that it makes then."""
    model.eval()(*example)
    return model, example, request


def _names(text: str) -> list[str]:
    return text.split()


class Scores(nn.Module):
    """A model of rec_pangu without its loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: dict[str, Tensor]) -> Any:
        return self.model(data, is_training=False)


class AgainstItem(nn.Module):
    """A session model of rec_pangu as a ranker: the user's vectors against one item's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: dict[str, Tensor]) -> Tensor:
        user = self.model(data, is_training=False)["user_emb"]
        item = self.model.item_emb(data["target_item"].squeeze(-1))
        scores: Tensor = (user * (item if user.dim() == 2 else item.unsqueeze(1))).sum(-1)
        return scores if user.dim() == 2 else scores.max(1).values


def rec_pangu() -> Iterator[Built]:
    """A dict of columns for its ranking and task models; histories with masks for its session models."""
    ranking = import_library("rec_pangu.models.ranking")
    tasks, sessions = import_library("rec_pangu.models.multi_task"), import_library("rec_pangu.models.sequence")
    columns: dict[str, Any] = {n: {"vocab_size": NUM_IDS} for n in (*USER, *ITEM)}
    columns |= {n: {"min": 0.0, "max": 1.0} for n in ("clicks", "price")}
    data = {n: ids() for n in (*USER, *ITEM)} | {n: torch.rand(NUM_ROWS) for n in ("clicks", "price")}
    request = [*USER, "clicks"]
    for name in _names("AFM AFN AOANet AutoInt CCPM DCN DeepFM FM FiBiNet LR MaskNet NFM WDL xDeepFM"):
        kind = getattr(ranking, name)
        yield name, lambda kind=kind: (Scores(kind(enc_dict=columns)), (data,), request)
    for name in _names("AITM ESSM MLMMOE MMOE OMOE ShareBottom"):
        kind = getattr(tasks, name)
        yield name, lambda kind=kind: (Scores(kind(enc_dict=columns)), (data,), request)
    hist = history()[0]
    session = {"hist_item_list": hist, "hist_mask_list": (hist > 0).long(), "target_item": ids(1)}
    config = {"embedding_dim": WIDTH, "max_length": LENGTH, "device": "cpu", "item_col": "item", "cate_cols": [],
              "K": 3}  # fmt: skip
    for name in _names(
        "CLRec CMI ComirecDR ComirecSA ContraRec GCSAN GRU4Rec IOCRec MIND NARM NextItNet NISER Re4 SASRec "
        "SINE SRGNN STAMP YotubeDNN"
    ):
        kind = getattr(sessions, name)
        yield name, lambda kind=kind: (
            AgainstItem(kind({"item": {"vocab_size": NUM_IDS}}, dict(config))), (session,),
            ["hist_item_list", "hist_mask_list"],
        )  # fmt: skip


def funrec() -> Iterator[Built]:
    """One packed matrix of columns, as deepctr_torch has it, from which it descends."""
    inputs, models = importlib.import_module("funrec.inputs"), importlib.import_module("funrec.models")
    sparse = [inputs.SparseFeat(n, NUM_IDS, WIDTH) for n in (*USER, *ITEM)]
    number = inputs.DenseFeat("price", 1)
    seen = inputs.VarLenSparseFeat(inputs.SparseFeat("hist_item", NUM_IDS, WIDTH, embedding_name="item"), LENGTH,
                                   length_name="seq_length")  # fmt: skip

    def build(name: str) -> tuple[nn.Module, Any, Any]:
        kind, columns = getattr(models, name), [*sparse, number]
        if name in ("DIN", "DIEN"):
            columns = [*columns, seen]
            model = kind(columns, ["item"])
        elif name in ("ESMM", "MMOE", "PLE", "SharedBottom"):
            model = kind(columns, task_types=["binary"] * 2, task_names=["ctr", "ctcvr"])
        elif name in ("PNN", "MLR"):
            model = kind(columns)
        else:
            model = kind(columns, sparse if name in ("AFM", "CCPM") else columns)
        places = model.feature_index
        x = torch.zeros(NUM_ROWS, max(end for _, end in places.values()))
        for feature, (start, end) in places.items():
            x[:, start:end] = torch.rand(NUM_ROWS, 1) if feature == "price" else ids(end - start).float()
        if "hist_item" in places:
            start, end = places["hist_item"]
            x[:, start:end], x[:, places["seq_length"][0]] = (t.float() for t in history())
        wanted = [f for f in (*USER, "hist_item", "seq_length") if f in places]
        first = next(iter(__import__("inspect").signature(model.forward).parameters))
        return model, x, {first: [c for f in wanted for c in range(*places[f])]}

    for name in _names(
        "AFM AFN AutoInt CCPM DCN DCNMix DeepFM DIFM FiBiNet IFM MLR NFM ONN PNN WDL XDeepFM ESMM MMOE PLE "
        "SharedBottom DIN DIEN"
    ):
        yield name, lambda name=name: build(name)


class LongHistory(nn.Module):
    """A model of FuxiCTR's LongCTR: the history and the candidate behind it as one flat column of items."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, user: Tensor, seen: Tensor, seen_brand: Tensor, item: Tensor, brand: Tensor) -> Tensor:
        items = {
            "item": torch.cat([seen, item.unsqueeze(1)], 1).flatten(),
            "brand": torch.cat([seen_brand, brand.unsqueeze(1)], 1).flatten(),
        }
        scores: Tensor = self.model(({"user": user}, items, (seen > 0).float()))["y_pred"]
        return scores


def model_zoo() -> Iterator[Built]:
    """FuxiCTR's own models over long histories, as its wheel brings them."""
    features = import_library("fuxictr.features")
    spec = {"type": "categorical", "vocab_size": NUM_IDS, "padding_idx": 0}

    def build(name: str) -> tuple[nn.Module, Any, Any]:
        made = features.FeatureMap("made", ".")
        made.features = OrderedDict(user={**spec, "source": "user"}, item={**spec, "source": "item"},
                                    brand={**spec, "source": "item"})  # fmt: skip
        made.labels, made.default_emb_dim, made.num_fields = ["click"], WIDTH, 3
        kind = getattr(import_library(f"model_zoo.LongCTR.{name}.{name}"), name)
        settings: dict[str, Any] = {"optimizer": "adam", "loss": "binary_crossentropy", "task": "binary_classification",
                                    "metrics": ["AUC"], "model_root": "/tmp", "verbose": 0}  # fmt: skip
        model = kind(made, embedding_dim=WIDTH, **settings)
        seen, seen_brand = history(60)[0], ids(60)  # they take the last 50 apart
        return LongHistory(model), (ids(), seen, seen_brand, ids(), ids()), ["user", "seen", "seen_brand"]

    for name in _names("DCNv2 DIEN DIN ETA FinalMLP MIRRN SDIM SIM TWIN TransAct"):
        yield name, lambda name=name: build(name)


CTR: dict[str, Callable[[], Iterator[Built]]] = {f.__name__: f for f in (mlgb, rec_pangu, funrec, model_zoo)}
