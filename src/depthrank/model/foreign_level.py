"""A level that is somebody else's PyTorch ranker, in its shared form: request work once, candidates against it.

Served, it is a ``Shared`` graph of allow-listed operators read from the artifact. In training it is the module itself:
over its shared form with live parameters, or pair by pair where dropout and batch statistics must act as their author
meant them.

Legend: R requests, N candidates, K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from depthrank.errors import SpecError
from depthrank.model.config import ForeignConfig
from depthrank.model.foreign_inputs import candidate_values, request_values
from depthrank.model.inputs import CandidateInputs, ItemSide, RequestInputs

if TYPE_CHECKING:
    from depthrank.sharing import Shared  # a slow import, which only models with foreign levels need

MOST_LOGIT = 30.0


class PairScorer(Protocol):
    """Scores candidates of encoded requests: the form a foreign module has while it serves, or while it trains."""

    def encode(self, request_inputs: Mapping[str, Tensor]) -> Any: ...

    def score(self, state: Any, candidate_inputs: Mapping[str, Tensor], request_of_candidate: Tensor | None) -> Any: ...


@dataclass
class ForeignRequests:
    """R requests as foreign levels read them: named inputs, and what each level encoded of them."""

    request: RequestInputs
    items: ItemSide
    encoded: dict[int, Any] = field(default_factory=dict)

    def select(self, index_R: Tensor) -> ForeignRequests:
        """Some of the requests; nothing is encoded yet."""
        return ForeignRequests(self.request.select(index_R), self.items)


class ForeignLevel(nn.Module):
    """Logits [N, K] of a foreign module; tasks it does not score keep the logits of the level before."""

    task_index: Tensor

    def __init__(self, config: ForeignConfig, tasks: Sequence[str], scorer: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.scorer = scorer
        self.own_tasks = config.tasks or tuple(tasks)
        index = torch.tensor([list(tasks).index(task) for task in self.own_tasks], dtype=torch.int64)
        self.register_buffer("task_index", index, persistent=False)

    depth = 0  # it reads the history itself

    def forward(
        self,
        requests: ForeignRequests,
        items: ItemSide,
        candidates: CandidateInputs,
        logits_before_NK: Tensor,
    ) -> Tensor:
        """The logits [N, K] of candidates, whose ``request_of_candidate_N`` names rows of ``requests``."""
        assert self.scorer is not None, "a foreign level scores after its module is attached"
        if candidates.rows_N.shape[0] == 0:
            return logits_before_NK
        scorer: PairScorer = self.scorer  # type: ignore[assignment]
        inputs, level = self.config.inputs, self.config.level
        if level not in requests.encoded:
            requests.encoded[level] = scorer.encode(request_values(inputs, requests.request, requests.items))
        single = requests.request.length_R.shape[0] == 1
        index = None if single else candidates.request_of_candidate_N
        out = scorer.score(requests.encoded[level], candidate_values(inputs, items, candidates), index)
        own_NK = task_scores(out, self.own_tasks, self.config.module)
        if self.config.outputs == "probabilities":
            own_NK = torch.logit(own_NK, eps=1e-7)
        # Not a clamp: a NaN stays one, and the engine keeps the level before for that candidate.
        own_NK = torch.where(own_NK.abs() > MOST_LOGIT, own_NK.sign() * MOST_LOGIT, own_NK)
        if self.config.adds:
            own_NK = own_NK + logits_before_NK[:, self.task_index]
        if len(self.own_tasks) == logits_before_NK.shape[1]:
            return own_NK[:, self.task_index.argsort()] if len(self.own_tasks) > 1 else own_NK
        return logits_before_NK.index_copy(1, self.task_index, own_NK.to(logits_before_NK.dtype))


def task_scores(out: Any, tasks: Sequence[str], name: str) -> Tensor:
    """A module's outputs as one score per task [N, K]: a tensor [N], [N, 1] or [N, K], several in order, or by name."""
    if isinstance(out, Mapping) and set(tasks) <= set(out):
        out = [out[task] for task in tasks]
    parts = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]
    columns = [t.unsqueeze(1) if t.dim() == 1 else t for t in parts]
    if columns and all(c.dim() == 2 for c in columns):
        joined_NK = torch.cat(columns, dim=1)
        if joined_NK.shape[1] == len(tasks):
            return joined_NK
    shapes = ", ".join(str(list(t.shape)) for t in parts) or "nothing"
    raise SpecError(
        f"{name} gives {shapes}; expected one score per candidate for each of {', '.join(tasks)} "
        "(name fewer with `tasks:` in the spec's model.foreign)"
    )


class SharedScorer(nn.Module):
    """The serving form: a verified graph without Python."""

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self._shared = [shared]  # not a submodule: its tensors are stored as its own files, not in the state dict

    @property
    def shared(self) -> Shared:
        """The model, for saving and for ``explain``."""
        return self._shared[0]

    def encode(self, request_inputs: Mapping[str, Tensor]) -> Any:
        """The request side of R requests."""
        return self.shared.encode(request_inputs)

    def score(self, state: Any, candidate_inputs: Mapping[str, Tensor], request_of_candidate: Tensor | None) -> Any:
        """The module's outputs for N candidates."""
        return self.shared.score(state, candidate_inputs, request_of_candidate)
