"""Losses against brute force, and the correction for sampled negatives against whole catalogues."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.model import CandidateLayout
from depthrank.training.losses import (
    Labels,
    TaskLoss,
    binary_loss,
    distillation_loss,
    level_loss,
    softmax_loss,
)

scores = st.floats(-6, 6)
rows = st.tuples(scores, st.sampled_from([0.0, 1.0, math.nan]), st.integers(0, 3))


def labels_of(label_N: torch.Tensor, request_N: torch.Tensor, importance_N: torch.Tensor | None = None) -> Labels:
    """Labels of one task; ``importance_N``: of sampled candidates, 0 marks the shown ones."""
    shown_N = torch.ones(len(label_N), dtype=torch.bool) if importance_N is None else importance_N == 0
    log_N = torch.zeros(len(label_N)) if importance_N is None else torch.where(shown_N, 1.0, importance_N).log()
    layout = CandidateLayout(request_N, int(request_N.max()) + 1)
    return Labels(label_N.unsqueeze(1), log_N, ~shown_N, request_N, layout)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@given(st.lists(rows, min_size=1, max_size=12))
def test_shown_candidates_have_the_mean_log_loss_of_those_with_a_label(drawn):
    drawn = sorted(drawn, key=lambda row: row[2])
    logits, label, request = (torch.tensor([row[i] for row in drawn]) for i in range(3))
    expected = [-math.log(sigmoid(s) if y else 1 - sigmoid(s)) for s, y, _ in drawn if not math.isnan(y)]
    found = binary_loss(logits, label, labels_of(label, request))
    assert float(found) == pytest.approx(sum(expected) / max(len(expected), 1), abs=1e-4)


@given(st.lists(rows, min_size=1, max_size=12))
def test_softmax_is_each_positive_against_its_request_s_others(drawn):
    drawn = sorted(drawn, key=lambda row: row[2])
    logits, label, request = (torch.tensor([row[i] for row in drawn]) for i in range(3))
    expected = []
    for s, y, r in drawn:
        if y == 1:
            against = sum(math.exp(t) for t, z, q in drawn if q == r and z == 0)
            expected.append(-math.log(math.exp(s) / (math.exp(s) + against)))
    found = softmax_loss(logits, label, labels_of(label, request))
    assert float(found) == pytest.approx(sum(expected) / max(len(expected), 1), abs=1e-4)


def draws(catalogue: torch.Tensor, q: torch.Tensor, n: int):
    """Every way to draw n negatives from the catalogue: (probability, their scores, their importance 1 / (n q))."""
    for items in product(range(len(q)), repeat=n):
        index = list(items)
        yield float(q[index].prod()), catalogue[index], 1 / (n * q[index])


@settings(max_examples=30)
@given(st.lists(scores, min_size=2, max_size=3), st.integers(1, 3), st.integers(0, 100))
def test_the_importance_correction_of_sampled_negatives_is_unbiased(catalogue, n, seed):
    """By enumeration: the expected binary loss is that of all negatives, the expected denominator the full one."""
    catalogue = torch.tensor(catalogue)
    q = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(len(catalogue), 3.0))).float() + 0.02
    q = q / q.sum()
    own = torch.tensor([0.5])
    binary, denominator = 0.0, 0.0
    for chance, drawn, importance in draws(catalogue, q, n):
        logits, label = torch.cat((own, drawn)), torch.tensor([1.0] + [0.0] * n)
        labels = labels_of(label, torch.zeros(n + 1, dtype=torch.int64), torch.cat((torch.zeros(1), importance)))
        binary += chance * float(binary_loss(logits, label, labels))
        denominator += chance * math.expm1(float(softmax_loss(logits, label, labels))) * math.exp(0.5)
    expected = -math.log(sigmoid(0.5)) - sum(math.log(1 - sigmoid(float(s))) for s in catalogue)
    assert binary == pytest.approx(expected, rel=1e-3)
    assert denominator == pytest.approx(float(catalogue.exp().sum()), rel=1e-3)


def test_uniform_draws_as_many_as_items_count_as_sampled_all_the_same():
    """1 / (n q) is exactly 1 then, as for a shown candidate; the loss is still per positive."""
    label = torch.tensor([1.0, 0.0, 0.0, 0.0])
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0])
    labels = labels_of(label, torch.zeros(4, dtype=torch.int64), torch.tensor([0.0, 1.0, 1.0, 1.0]))
    assert labels.is_sampled_N.tolist() == [False, True, True, True] and (labels.log_importance_N == 0).all()
    expected = math.log(2) + sum(math.log1p(math.exp(s)) for s in (1, 2, 3))
    assert float(binary_loss(logits, label, labels)) == pytest.approx(expected, rel=1e-5)


def test_a_task_without_labels_costs_nothing_and_gives_no_nan():
    logits = torch.randn(5, 2, requires_grad=True)
    label = torch.full((5, 2), torch.nan)
    roc = torch.zeros(5, dtype=torch.int64)
    labels = Labels(label, torch.zeros(5), torch.zeros(5, dtype=torch.bool), roc, CandidateLayout(roc, 1))
    loss = level_loss(logits, labels, [TaskLoss(1, True, True)] * 2)
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()


def test_tasks_add_up_by_their_weights():
    logits = torch.randn(6, 2)
    label = torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, 1], [0, 1], [0, 0]])
    roc = torch.tensor([0, 0, 0, 1, 1, 1])
    labels = Labels(label, torch.zeros(6), torch.zeros(6, dtype=torch.bool), roc, CandidateLayout(roc, 2))
    found = level_loss(logits, labels, [TaskLoss(0.5, True, False), TaskLoss(2.0, False, True)])
    parts = binary_loss(logits[:, 0], label[:, 0], labels), softmax_loss(logits[:, 1], label[:, 1], labels)
    assert float(found) == pytest.approx(0.5 * float(parts[0]) + 2 * float(parts[1]), rel=1e-6)


def test_distillation_is_least_where_student_and_teacher_agree_and_teaches_the_student_alone():
    teacher = torch.randn(7, 2, requires_grad=True)
    student = torch.randn(7, 2, requires_grad=True)
    distillation_loss(student, teacher, torch.zeros(7)).backward()
    assert teacher.grad is None and student.grad.any()
    with torch.no_grad():
        assert distillation_loss(teacher, teacher, torch.zeros(7)) < distillation_loss(student, teacher, torch.zeros(7))
