"""A step on positives-only data: the softmax over the catalogue, negatives picked from it or from those drawn."""

from __future__ import annotations

import pytest
import torch

from depthrank.model import (
    CandidateInputs,
    CandidateLayout,
    ElasticRanker,
    LevelConfig,
    ModelConfig,
    RequestInputs,
    RoutedRequests,
    SideConfig,
)
from depthrank.schema.settings import TrainingSettings
from depthrank.tables import TableSlot
from depthrank.training.batch_inputs import Positives, StepInputs
from depthrank.training.losses import Labels, TaskLoss
from depthrank.training.step_losses import StepObjective, picks_from_catalogue

ITEMS, REQUESTS = 40, 6
TASK = [TaskLoss(1.0, False, True)]


def model_of(**changes: object) -> ElasticRanker:
    torch.manual_seed(0)
    sizes: dict[str, object] = {
        "tasks": ("click",),
        "prior_logit": (0.0,),
        "num_actions": 1,
        "request": SideConfig((TableSlot("age", 5, 0, 1),), 0),
        "item": SideConfig((TableSlot("item", ITEMS, 0, 1),), 0),
        "candidate": SideConfig(),
        "history_length": 5,
        "width": 8,
        "table_width": 8,
        "heads": 2,
        "levels": (LevelConfig((0, 1), 1, 4, 4),),
        "dropout": 0.0,
    }
    return ElasticRanker(ModelConfig(**{**sizes, **changes}))  # type: ignore[arg-type]


def step(drawn: int = 0) -> StepInputs:
    """Six requests of two users; request r reads r % 3 + 1 events of its user's sequence and takes item 20 + r."""
    history = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    length, sequence = torch.arange(REQUESTS) % 3 + 1, torch.arange(REQUESTS) // 3
    ages = sequence.unsqueeze(1) + 2
    deep = RequestInputs(
        ages.int(),
        torch.zeros(REQUESTS, 0),
        history,
        torch.ones_like(history),
        torch.zeros_like(history),
        torch.zeros(REQUESTS, 5, dtype=torch.int64),
        length,
        sequence,
    )
    routed = RoutedRequests(torch.tensor([[2], [3]]).int(), torch.zeros(2, 0), sequence, sequence, length)
    positive = 20 + torch.arange(REQUESTS)
    g = torch.Generator().manual_seed(3)
    negatives = torch.randint(30, ITEMS, (REQUESTS, drawn), generator=g)
    rows = torch.cat((positive.unsqueeze(1), negatives), 1).flatten()
    request = torch.repeat_interleave(torch.arange(REQUESTS), 1 + drawn)
    is_sampled = torch.arange(len(rows)) % (1 + drawn) > 0
    label = (~is_sampled).float().unsqueeze(1)
    importance = torch.where(is_sampled, torch.tensor(ITEMS / max(drawn, 1)).log(), 0.0)
    return StepInputs(
        torch.arange(ITEMS).unsqueeze(1).int(),
        torch.zeros(ITEMS, 0),
        routed,
        deep,
        torch.arange(REQUESTS),
        CandidateInputs(rows, torch.zeros(len(rows), 0, dtype=torch.int32), torch.zeros(len(rows), 0), request),
        Labels(label, importance, is_sampled, request, CandidateLayout(request, REQUESTS)),
        Positives(positive, torch.arange(REQUESTS), torch.ones(REQUESTS, 1)),
        whole_catalogue=True,
        positives_only=True,
        from_catalogue=not drawn,
    )


def losses_of(model: ElasticRanker, inputs: StepInputs, seed: int = 0, **settings: object):
    chosen = TrainingSettings(**{"distillation": 0.0, **settings})  # type: ignore[arg-type]
    return StepObjective(model, TASK, chosen)(inputs, torch.Generator().manual_seed(seed))


def test_the_routers_loss_is_the_softmax_over_every_known_item():
    model, inputs = model_of().eval(), step()
    losses = losses_of(model, inputs)
    items = model.encode_items(inputs.item_ids_UI, inputs.item_floats_UF)
    user = model.begin(inputs.deep, items).user
    logits = model.router.over_catalogue(user, items, 0, torch.arange(REQUESTS))[:, 1:]
    expected = torch.nn.functional.cross_entropy(logits, inputs.positives.rows_P - 1)
    torch.testing.assert_close(losses.level_losses[0], expected)


def test_negatives_from_the_catalogue_are_unseen_and_stand_for_all_the_rest():
    model, inputs, seen = model_of().eval(), step(), []
    start = model.start

    def watched(items, candidates):
        seen.append(candidates)
        return start(items, candidates)

    model.start = watched  # type: ignore[method-assign]
    losses = losses_of(model, inputs, deep_negatives=12, survivor_share=0.5)
    labels = losses.labels
    for r in range(REQUESTS):
        own = labels.request_of_candidate_N == r
        rows, history = seen[0].rows_N[own], inputs.deep.history_rows_SL[r // 3, : r % 3 + 1]
        assert own.sum() == 13 and rows[0] == 20 + r and labels.label_NK[own, 0].tolist() == [1.0] + [0.0] * 12
        assert not torch.isin(rows, history).any() and (rows > 0).all() and rows.unique().numel() == 13
        stands_for = labels.log_importance_N[own][1:].exp().sum()
        assert float(stands_for) == pytest.approx(ITEMS - 1 - 1 - (r % 3 + 1), rel=1e-4)


def test_with_negatives_for_every_item_the_deep_loss_is_the_full_softmax_over_unseen_items():
    """However they are divided into survivors and others, and only because each stands for what it should."""
    model, inputs = model_of().eval(), step()
    with torch.no_grad():
        model.experts[0].head.weight.normal_()  # type: ignore[union-attr]
    full = losses_of(model, inputs, deep_negatives=ITEMS, survivor_share=0.0).level_losses[1]
    same = losses_of(model, inputs, deep_negatives=ITEMS, survivor_share=1.0).level_losses[1]
    torch.testing.assert_close(full, same)
    few = [float(losses_of(model, inputs, seed, deep_negatives=12).level_losses[1].detach()) for seed in range(20)]
    assert sum(few) / len(few) == pytest.approx(float(full.detach()), rel=0.1)


def test_of_drawn_negatives_the_deeper_level_keeps_survivors_and_a_few_others():
    model, inputs = model_of().eval(), step(drawn=9)
    losses = losses_of(model, inputs, deep_negatives=4, survivor_share=0.5)
    assert losses.logits_L[1].shape[0] == REQUESTS * 5
    everything = losses_of(model, inputs).labels.log_importance_N.exp().sum()
    torch.testing.assert_close(losses.labels.log_importance_N.exp().sum(), everything)


def test_co_training_moves_the_router_and_its_absence_does_not():
    model, inputs = model_of(), step()
    losses_of(model, inputs, survival=1.0, survival_widths=[3]).co_training.backward()
    assert model.router.user_linear.weight.grad is not None and model.router.user_linear.weight.grad.any()
    assert float(losses_of(model, inputs).co_training) == 0.0


def test_the_step_picks_negatives_itself_only_where_items_are_all_there_is_to_a_candidate():
    assert picks_from_catalogue(model_of().config, 5_000)
    assert not picks_from_catalogue(model_of().config, 50_000)
    assert not picks_from_catalogue(model_of(candidate=SideConfig((), 2)).config, 5_000)


def test_where_only_the_deepest_level_is_an_exit_no_label_reaches_the_router():
    for exits in ("all", "deepest"):
        torch.manual_seed(0)
        model = model_of(levels=(LevelConfig((0, 1), 1, 4, 4, corrects=False),))
        torch.nn.init.normal_(model.experts[0].head.weight)
        losses = losses_of(model, step(), distillation=0.2, exits=exits)
        losses.total.backward()
        reached = model.router.user_linear.weight.grad is not None
        assert reached == (exits == "all")
        assert model.experts[0].head.weight.grad.abs().sum() > 0
        assert len(losses.level_losses) == 2, "every level's loss is still told"
