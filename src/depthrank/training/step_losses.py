"""The losses of one training step: every level's own, distillation, survival.

All sequences of a batch are encoded once. Where data has positives only and the catalogue is small, every request
trains the router by a softmax over the whole catalogue, and the deep requests' negatives are picked from it too;
otherwise a request's candidates were shown or drawn, and levels beyond the router keep the survivors of those drawn.

Legend: R requests, N candidates, C slots a request, V item rows, K tasks, P positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from depthrank.model import (
    CandidateInputs,
    CandidateLayout,
    ElasticRanker,
    ItemSide,
    ModelConfig,
    RequestInputs,
    RequestState,
)
from depthrank.model.router import Router
from depthrank.schema.settings import TrainingSettings
from depthrank.training.batch_inputs import FULL_CATALOGUE_ROWS, StepInputs
from depthrank.training.catalogue_softmax import catalogue_softmax
from depthrank.training.losses import Labels, TaskLoss, distillation_loss, level_loss
from depthrank.training.survival import survival_loss
from depthrank.training.survivors import pick_negatives

UNEVENNESS = 0.01  # weight of the uneven use of sparse experts (Switch, Fedus et al. 2022)
CATALOGUE_NEGATIVES = 64  # of a deep request, where the settings give no number


@dataclass
class StepLosses:
    """Logits [N, K] of every level for the candidates that all of them scored, with labels, and the losses.

    ``first_exit``: the first level whose loss counts.
    """

    logits_L: list[Tensor]
    labels: Labels
    level_losses: list[Tensor]
    co_training: Tensor
    first_exit: int = 0

    @property
    def total(self) -> Tensor:
        """What a step minimises, a scalar."""
        return torch.stack(self.level_losses[self.first_exit :]).sum() + self.co_training


def picks_from_catalogue(config: ModelConfig, num_rows: int) -> bool:
    """Whether deep negatives come from the whole catalogue: it is small, and items are all there is to a candidate."""
    own_columns = config.candidate.slots or config.candidate.num_floats
    return num_rows <= FULL_CATALOGUE_ROWS and not own_columns and config.foreign_at(0) is None


class StepObjective:
    """Computes the losses of a step for one model."""

    def __init__(self, model: ElasticRanker, tasks: Sequence[TaskLoss], settings: TrainingSettings) -> None:
        self.model, self.tasks, self.settings = model, tasks, settings

    def __call__(self, inputs: StepInputs, generator: torch.Generator) -> StepLosses:
        """Forward pass and losses; ``generator`` draws the random negatives."""
        items = self.model.encode_items(inputs.item_ids_UI, inputs.item_floats_UF)
        seen = self.model.begin(inputs.deep, items)
        catalogue = self._catalogue_loss(seen, items, inputs)
        candidates, labels = inputs.candidates, inputs.labels
        if inputs.from_catalogue:
            candidates, labels = self._from_catalogue(seen, items, inputs, generator)
        routed_NK = self.model.route(seen, items, candidates).float()
        losses = [self._router_loss(routed_NK, labels, catalogue, inputs.routed.row_R.shape[0])]
        if not inputs.from_catalogue and self.settings.deep_negatives is not None and self.model.config.num_levels > 1:
            index_N, labels = self._survivors(routed_NK.detach(), labels, generator)
            candidates, routed_NK = candidates.select(index_N), routed_NK[index_N]
        candidates = self._with_counted(candidates, labels)
        logits_L = [level.float() for level in self.model.deeper_levels(seen, items, candidates, routed_NK)]
        losses += [level_loss(logits, labels, self.tasks) for logits in logits_L[1:]]
        first_exit = len(losses) - 1 if self.settings.exits == "deepest" else int(self._keeps_router)
        return StepLosses(logits_L, labels, losses, self._co_training(logits_L, labels), first_exit)

    @property
    def _keeps_router(self) -> bool:
        return self.settings.router == "keep"

    def _with_counted(self, candidates: CandidateInputs, labels: Labels) -> CandidateInputs:
        """In training a request's own choice is among the transitions that were counted: it must not be told."""
        if self.model.transitions is None or not self.model.training:
            return candidates
        return replace(candidates, counted_N=labels.label_NK.nan_to_num().amax(1) > 0)

    def _router_loss(self, logits_NK: Tensor, labels: Labels, catalogue: Tensor | None, num_requests: int) -> Tensor:
        """The router's softmax is the catalogue's where there is one.

        That is a mean over all requests, the log loss one over the deep few: it counts by their share, or its noise
        drowns the softmax (docs/log.md).
        """
        if catalogue is None:
            return level_loss(logits_NK, labels, self.tasks)
        share = labels.layout.num_requests / max(1, num_requests)
        binary = level_loss(logits_NK, labels, [replace(task, softmax=False) for task in self.tasks])
        return share * binary + catalogue

    def _co_training(self, logits_L: list[Tensor], labels: Labels) -> Tensor:
        """What ties shallower levels to the deepest."""
        total = logits_L[0].new_zeros(())
        if self.model.training and (uneven := self.model.take_unevenness()) is not None:
            total = total + UNEVENNESS * uneven
        shallower = logits_L[int(self._keeps_router) : -1] if self.settings.exits == "all" else ()
        for shallow in shallower:
            if self.settings.distillation:
                distilled = distillation_loss(shallow, logits_L[-1], labels.log_importance_N)
                total = total + self.settings.distillation * distilled
            if self.settings.survival:
                weight_K = shallow.new_tensor([task.value for task in self.tasks])
                lost = survival_loss(shallow, logits_L[-1], labels, weight_K, self.settings.survival_widths)
                total = total + self.settings.survival * lost
        return total

    def _catalogue_loss(self, seen: RequestState, items: ItemSide, inputs: StepInputs) -> Tensor | None:
        """The router's softmax over the whole catalogue: every request's positives, no sampling."""
        if self._keeps_router and self.model.training:
            return None
        router, positives = self.model.router, inputs.positives
        softmax = [(k, task) for k, task in enumerate(self.tasks) if task.softmax]
        if not (inputs.whole_catalogue and inputs.positives_only and softmax and isinstance(router, Router)):
            return None
        user = self.model.user_vectors(seen.view.state, inputs.routed)
        total = items.vector_UD.new_zeros(())
        for k, task in softmax:
            own_P = (positives.label_PK[:, k] == 1) & (positives.rows_P > 0)
            vector_PD = user.vector_RKD[:, k].index_select(0, positives.request_P[own_P])
            target_P = positives.rows_P[own_P] - 1  # row 0, the unknown item, is left out
            loss = catalogue_softmax(vector_PD, items.vector_UD[1:], items.bias_UK[1:, k], target_P)
            total = total + task.weight * loss / max(1, target_P.shape[0])
        return total

    @torch.no_grad()
    def _from_catalogue(
        self, seen: RequestState, items: ItemSide, inputs: StepInputs, generator: torch.Generator
    ) -> tuple[CandidateInputs, Labels]:
        """Each deep request's positives, and negatives picked from the catalogue."""
        router, own, deep = self.model.router, inputs.candidates, inputs.deep
        assert isinstance(router, Router) and seen.user is not None
        every_R = torch.arange(seen.num_requests)
        counting = self.model.transitions is not None and self.model.training  # what a user took later was counted too
        value_RV = items.vector_UD.new_zeros(seen.num_requests, items.vector_UD.shape[0])
        for k, task in enumerate(self.tasks):
            value_RV += task.value * router.over_catalogue(seen.user, items, k, every_R).sigmoid()
        eligible_RV = torch.ones_like(value_RV, dtype=torch.bool)
        eligible_RV.scatter_(1, _seen_rows(deep, beyond=counting), False)
        eligible_RV[own.request_of_candidate_N, own.rows_N] = False
        eligible_RV[:, 0] = False
        picked = pick_negatives(value_RV, eligible_RV, *self._numbers(CATALOGUE_NEGATIVES), generator)
        request_RM = every_R.unsqueeze(1).expand_as(picked.index_RM)
        taken, positives = picked.taken_RM, own.rows_N.shape[0]
        request_N = torch.cat((own.request_of_candidate_N, request_RM[taken]))
        order_N = request_N.argsort(stable=True)  # the positives stay first
        rows_N = torch.cat((own.rows_N, picked.index_RM[taken]))[order_N]
        request_N = request_N[order_N]
        factor_N = torch.cat((inputs.labels.log_importance_N, picked.log_factor_RM[taken]))[order_N]
        nothing_NK = inputs.labels.label_NK.new_zeros(rows_N.shape[0] - positives, len(self.tasks))
        label_NK = torch.cat((inputs.labels.label_NK, nothing_NK))[order_N]
        layout = CandidateLayout(request_N, seen.num_requests)
        labels = Labels(label_NK, factor_N, order_N >= positives, request_N, layout)
        empty = own.ids_NI.new_zeros(rows_N.shape[0], 0), own.floats_NF.new_zeros(rows_N.shape[0], 0)
        return CandidateInputs(rows_N, *empty, request_N), labels

    @torch.no_grad()
    def _survivors(self, routed_NK: Tensor, labels: Labels, generator: torch.Generator) -> tuple[Tensor, Labels]:
        """Which candidates (a sorted index) go deeper: all but negatives drawn that were not picked; their labels."""
        layout = labels.layout
        value_N = routed_NK.sigmoid() @ routed_NK.new_tensor([task.value for task in self.tasks])
        eligible_RC = layout.pad(labels.is_sampled_N.to(value_N.dtype).unsqueeze(1)).squeeze(-1) > 0
        value_RC = layout.pad(value_N.unsqueeze(1)).squeeze(-1)
        assert self.settings.deep_negatives is not None
        picked = pick_negatives(value_RC, eligible_RC, *self._numbers(self.settings.deep_negatives), generator)
        kept_RC = torch.zeros_like(eligible_RC).scatter(1, picked.index_RM, picked.taken_RM)
        factor_RC = torch.zeros_like(value_RC).scatter(1, picked.index_RM, picked.log_factor_RM)
        kept_N = layout.unpad(kept_RC.unsqueeze(-1)).squeeze(-1) | ~labels.is_sampled_N
        factor_N = layout.unpad(factor_RC.unsqueeze(-1)).squeeze(-1)
        index_N = kept_N.nonzero().squeeze(1)
        request_N = labels.request_of_candidate_N[index_N]
        importance_N = (labels.log_importance_N + torch.where(labels.is_sampled_N, factor_N, 0.0))[index_N]
        smaller = CandidateLayout(request_N, layout.num_requests)
        return index_N, Labels(labels.label_NK[index_N], importance_N, labels.is_sampled_N[index_N], request_N, smaller)

    def _numbers(self, default: int) -> tuple[int, int]:
        """How many negatives are survivors, and how many others."""
        total = self.settings.deep_negatives or default
        survivors = round(total * self.settings.survivor_share)
        return survivors, total - survivors


def _seen_rows(deep: RequestInputs, beyond: bool) -> Tensor:
    """The item rows in each request's history, int64 [R, L]; row 0 beyond it, or what the user took later."""
    assert deep.sequence_of_request_R is not None
    rows_RL = deep.history_rows_SL[deep.sequence_of_request_R]
    if beyond:
        return rows_RL
    inside_RL = torch.arange(rows_RL.shape[1]) < deep.length_R.unsqueeze(1)
    return rows_RL * inside_RL
