"""torch-rechub's ranking models: 20 user and 10 item features, one MLP; a history of item ids where one is taken."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models import ranking

from . import closed_forms
from .entry import Columns, Sizes, ZooModel, history, ids, merged

CROSS_LAYERS = 3


def user_features(s: Sizes) -> list[SparseFeature]:
    return [SparseFeature(f"u{i}", s.vocab, s.width) for i in range(s.num_user)]


def item_features(s: Sizes) -> list[SparseFeature]:
    return [SparseFeature(f"i{i}", s.vocab, s.width) for i in range(s.num_item)]


def history_feature(s: Sizes, name: str = "history") -> SequenceFeature:
    """Item ids of the past, looked up in the table of ``i0``; 0 is padding."""
    return SequenceFeature(name, s.vocab, s.width, pooling="concat", shared_with="i0", padding_idx=0)


def target_features(s: Sizes) -> tuple[SparseFeature, list[SparseFeature]]:
    """The target item's id (padding 0, table shared with the history) and the item's other features."""
    return SparseFeature("i0", s.vocab, s.width, padding_idx=0), item_features(s)[1:]


def flat(s: Sizes) -> tuple[Columns, Columns]:
    return ids("u", s.num_user, s.vocab), ids("i", s.num_item, s.vocab)


def with_history(s: Sizes, *extra: str) -> tuple[Columns, Columns]:
    past = history("history", *extra, vocab=s.vocab, length=s.history)
    return merged(ids("u", s.num_user, s.vocab), past), ids("i", s.num_item, s.vocab, low=1)


def mlp(s: Sizes) -> dict[str, Any]:
    return {"dims": list(s.mlp), "activation": "relu", "dropout": 0.1}


def feature_cross(
    name: str, construct: Callable[[Sizes, list[SparseFeature]], nn.Module], form: closed_forms.Form, **flags: Any
) -> Callable[[Sizes], ZooModel]:
    """A model over one list of categorical features, user features first."""

    def entry(s: Sizes) -> ZooModel:
        def build() -> nn.Module:
            return construct(s, user_features(s) + item_features(s))

        request, candidate = flat(s)
        return ZooModel(name, s, build, request, candidate, work=form(s), **flags)

    return entry


def din(s: Sizes) -> ZooModel:
    def build() -> nn.Module:
        target, others = target_features(s)
        attention = {"dims": [36], "activation": "dice"}
        return ranking.DIN(user_features(s) + others, [history_feature(s)], [target], mlp_without(s), attention)

    request, candidate = with_history(s)
    return ZooModel("DIN", s, build, request, candidate, work=closed_forms.din(s))


def mlp_without(s: Sizes, *, dropout: float = 0.1) -> dict[str, Any]:
    """MLP parameters of the models that fix their own activation."""
    return {"dims": list(s.mlp), "dropout": dropout}


def dien(s: Sizes) -> ZooModel:
    """Branches on the data (`has_hist.any()`), packs sequences, and returns a loss over the whole batch."""

    def build() -> nn.Module:
        target, others = target_features(s)
        past, negative = history_feature(s), history_feature(s, "negative_history")
        return ranking.DIEN(user_features(s) + others, [past], [negative], [target], mlp_without(s))

    request, candidate = with_history(s, "negative_history")
    return ZooModel("DIEN", s, build, request, candidate, refused="data")


def bst(s: Sizes) -> ZooModel:
    def build() -> nn.Module:
        target, others = target_features(s)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="enable_nested_tensor is True")
            return ranking.BST(
                user_features(s) + others, [history_feature(s)], [target], mlp(s),
                nhead=4, dropout=0.1, num_layers=1, max_seq_len=s.history + 1,
            )  # fmt: skip

    request, candidate = with_history(s)
    return ZooModel(
        "BST", s, build, request, candidate,
        user_side_is_encoder=True, work=closed_forms.bst(s),
    )  # fmt: skip


def deepffm(s: Sizes, fat: bool = False) -> ZooModel:
    """Field-aware tables hold one row per (value, other field); the linear part reads tables of width one."""

    def build() -> nn.Module:
        fields = s.num_user + s.num_item
        names = [f"u{i}" for i in range(s.num_user)] + [f"i{i}" for i in range(s.num_item)]
        linear = [SparseFeature(name, s.vocab, 1) for name in names]
        cross = [SparseFeature(name, s.vocab * fields, s.width) for name in names]
        return ranking.DeepFFM(linear, cross, s.width, mlp(s))

    request, candidate = flat(s)
    return ZooModel("DeepFFM", s, build, request, candidate, work=closed_forms.deepffm(s))


MODELS: dict[str, Callable[[Sizes], ZooModel]] = {
    "DeepFM": feature_cross("DeepFM", lambda s, f: ranking.DeepFM(f, f, mlp(s)), closed_forms.wide_and_deep),
    "WideDeep": feature_cross("WideDeep", lambda s, f: ranking.WideDeep(f, f, mlp(s)), closed_forms.wide_and_deep),
    "DCN": feature_cross("DCN", lambda s, f: ranking.DCN(f, CROSS_LAYERS, mlp(s)), closed_forms.dcn),
    "DCNv2": feature_cross(
        "DCNv2", lambda s, f: ranking.DCNv2(f, CROSS_LAYERS, mlp(s)), closed_forms.dcn_mix, alone_fails=True
    ),
    "DCNv2Full": feature_cross(
        "DCNv2Full",
        lambda s, f: ranking.DCNv2(f, CROSS_LAYERS, mlp(s), use_low_rank_mixture=False),
        closed_forms.dcn_v2,
    ),
    "EDCN": feature_cross("EDCN", lambda s, f: ranking.EDCN(f, CROSS_LAYERS, mlp(s)), closed_forms.edcn),
    "AFM": feature_cross("AFM", lambda s, f: ranking.AFM(f, s.width), closed_forms.afm),
    "FiBiNet": feature_cross("FiBiNet", lambda s, f: ranking.FiBiNet(f, mlp(s)), closed_forms.fibinet),
    "DeepFFM": deepffm,
    "AutoInt": feature_cross(
        "AutoInt", lambda s, f: ranking.AutoInt(f, [], num_layers=3, mlp_params=mlp(s)), closed_forms.autoint
    ),
    "DIN": din,
    "DIEN": dien,
    "BST": bst,
}
