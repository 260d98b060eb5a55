"""torch-rechub's multi-task models: two tasks over 20 user and 10 item features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models import multi_task

from . import closed_forms
from .entry import Sizes, ZooModel
from .rechub_ranking import flat, item_features, mlp, user_features

TASKS = ["classification", "classification"]
NUM_EXPERTS = 4


def towers(s: Sizes) -> list[dict[str, Any]]:
    return [{"dims": [s.mlp[1] // 2], "activation": "relu"} for _ in TASKS]


def multi(
    name: str, construct: Callable[[Sizes, list[SparseFeature]], nn.Module], form: closed_forms.Form
) -> Callable[[Sizes], ZooModel]:
    def entry(s: Sizes) -> ZooModel:
        def build() -> nn.Module:
            return construct(s, user_features(s) + item_features(s))

        request, candidate = flat(s)
        return ZooModel(name, s, build, request, candidate, work=form(s))

    return entry


MODELS: dict[str, Callable[[Sizes], ZooModel]] = {
    "SharedBottom": multi(
        "SharedBottom",
        lambda s, f: multi_task.SharedBottom(f, TASKS, mlp(s), towers(s)),
        closed_forms.shared_bottom,
    ),
    "ESMM": multi(
        "ESMM",
        lambda s, f: multi_task.ESMM(f[: s.num_user], f[s.num_user :], mlp(s), mlp(s)),
        closed_forms.esmm,
    ),
    "MMOE": multi(
        "MMOE",
        lambda s, f: multi_task.MMOE(f, TASKS, NUM_EXPERTS, mlp(s), towers(s)),
        lambda s: closed_forms.mmoe(s, NUM_EXPERTS),
    ),
    "PLE": multi(
        "PLE",
        lambda s, f: multi_task.PLE(f, TASKS, 2, 2, 1, mlp(s), towers(s)),
        lambda s: closed_forms.ple(s, num_levels=2, num_specific=2, num_shared=1),
    ),
    "AITM": multi("AITM", lambda s, f: multi_task.AITM(f, len(TASKS), mlp(s), towers(s)), closed_forms.aitm),
}
