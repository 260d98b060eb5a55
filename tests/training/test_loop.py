"""The loop: time limits by an injected clock, early stopping, divergence, one-class tasks, two ways to one loss."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import depthrank.training.batch_inputs as batch_inputs
from depthrank.artifact import load_artifact
from depthrank.data import BatchLoader, load_dataset, load_examples
from depthrank.errors import SpecError
from depthrank.events import open_log
from depthrank.features import Counters
from depthrank.model import ElasticRanker
from depthrank.schema import Spec
from depthrank.schema.settings import TrainingSettings
from depthrank.training.batch_inputs import ItemColumns, to_step_inputs
from depthrank.training.epochs import length_of
from depthrank.training.loop import TrainingLoop
from depthrank.training.losses import TaskLoss

BINARY = [TaskLoss(1.0, True, False)] * 2


@pytest.fixture(scope="module")
def parts(world):
    """The world's encoder, model config and a few batches."""
    torch.set_num_threads(1)
    artifact, spec = load_artifact(world.artifact), Spec.load(world.spec)
    with open_log(world.log_url, read_only=True) as log:
        raw = load_dataset(spec)
        examples = load_examples(spec, raw)
        counters = Counters.rebuild(spec, log, raw.items, raw.users)
        same = {"encoder": artifact.encoder, "log": log, "counters": counters, "items": raw.items, "users": raw.users}
        train = list(BatchLoader(examples, "train", spec, ahead=0, **same))[:3]
        validation = list(BatchLoader(examples, "validation", spec, ahead=0, **same))[:1]
    return artifact, train, validation


def make_loop(parts, tasks=BINARY, monotonic=lambda: 0.0, **settings) -> TrainingLoop:
    artifact, train, _ = parts
    torch.manual_seed(0)
    model = ElasticRanker(artifact.model.config)
    items = ItemColumns(artifact.encoder.encode_items(artifact.items))
    chosen = TrainingSettings(**{"epochs": 3, "learning_rate": 1e-3, **settings})
    return TrainingLoop(model, items, tasks, chosen, steps_per_epoch=len(train), monotonic=monotonic)


def test_no_step_starts_after_the_time_is_up_and_the_best_weights_are_kept(parts):
    _, train, validation = parts
    now = [0.0]
    started: list[float] = []
    loop = make_loop(parts, monotonic=lambda: now[0])
    step = loop._step

    def timed(batch):
        started.append(now[0])
        now[0] += 10.0
        return step(batch)

    loop._step = timed
    scored = loop.run(lambda epoch: train, lambda epoch: validation, deadline_s=45.0)
    assert started == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert [e.finished for e in loop.state.history] == [True, False]
    assert scored.logits_LNK.shape[1] > 0 and loop.best_weights


def test_training_stops_when_validation_has_not_improved_for_longer_than_patience(parts, monkeypatch):
    _, train, validation = parts
    loop = make_loop(parts, epochs=50, patience=2)
    losses, kept = iter([5.0, 4.0, 4.5, 4.4, 4.3, 1.0]), []
    evaluate = loop.evaluate

    def told(batches):
        _, scored = evaluate(batches)
        kept.append(scored)
        return [9.0, next(losses)], scored

    monkeypatch.setattr(loop, "evaluate", told)
    scored = loop.run(lambda epoch: train[:1], lambda epoch: validation)
    assert [e.validation_loss_L[-1] for e in loop.state.history] == [5.0, 4.0, 4.5, 4.4, 4.3]
    assert scored is kept[1], "the best epoch's, without evaluating once more"
    again = evaluate(validation)[1]
    assert np.array_equal(again.logits_LNK, scored.logits_LNK), "and its weights are in place"


def test_without_validation_data_the_last_epoch_is_the_best(parts):
    _, train, _ = parts
    loop = make_loop(parts, epochs=2)
    scored = loop.run(lambda epoch: train[:1], lambda epoch: [])
    assert len(loop.state.history) == 2 and scored.logits_LNK.shape[1] == 0
    assert math.isnan(loop.state.best_loss) and loop.state.bad_epochs == 0


def test_a_validation_loss_that_is_no_number_is_never_the_best(parts, monkeypatch):
    _, train, validation = parts
    loop = make_loop(parts, epochs=3)
    losses, evaluate = iter([3.0, math.nan, 2.0]), loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda batches: ([9.0, next(losses)], evaluate(batches)[1]))
    loop.run(lambda epoch: train[:1], lambda epoch: validation)
    assert loop.state.best_loss == 2.0 and loop.state.bad_epochs == 0


def test_training_that_diverges_is_one_clear_error(parts):
    _, train, validation = parts
    loop = make_loop(parts)
    with torch.no_grad():
        loop.model.item_vector.weight.fill_(torch.inf)
    with pytest.raises(SpecError, match=r"training diverged: the loss of step 1 of epoch 1 is nan; lower training\."):
        loop.run(lambda epoch: train, lambda epoch: validation)


def test_a_task_of_one_class_trains_without_a_bad_number(parts):
    _, train, validation = parts
    for batch in (*train, *validation):
        batch.label[:, 1] = 0.0
    loop = make_loop(parts, tasks=[TaskLoss(1.0, True, True)] * 2, epochs=1)
    scored = loop.run(lambda epoch: train, lambda epoch: validation)
    assert np.isfinite(scored.logits_LNK).all() and math.isfinite(loop.state.history[0].train_loss)


def losses_of(loop, inputs):
    return float(loop.objective(inputs, torch.Generator().manual_seed(0)).total.detach())


def test_a_step_over_the_whole_catalogue_and_one_over_the_rows_in_use_have_the_same_loss(parts, monkeypatch):
    _, train, _ = parts
    loop = make_loop(parts, tasks=[TaskLoss(1.0, True, True)] * 2)
    loop.model.eval()
    gathered = to_step_inputs(train[0], loop.items)
    positives = dataclasses.replace(train[0], positives_only=True)
    whole = to_step_inputs(positives, loop.items)
    assert (whole.whole_catalogue, gathered.whole_catalogue) == (True, False)
    monkeypatch.setattr(batch_inputs, "FULL_CATALOGUE_ROWS", 0)
    assert not to_step_inputs(positives, loop.items).whole_catalogue, "a catalogue too large for a full softmax"
    whole.positives_only = whole.from_catalogue = False
    assert losses_of(loop, whole) == pytest.approx(losses_of(loop, gathered), rel=1e-5)
    whole.positives_only = True
    assert abs(losses_of(loop, whole) - losses_of(loop, gathered)) > 1e-3, "positives alone: softmax over the catalogue"


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({}, 5, (30, 6)),
        ({}, 25, (24, 4)),
        ({}, 60, (10, 2)),
        ({}, 10_000, (10, 2)),
        ({"epochs": 3}, 5, (3, 2)),
        ({"epochs": 50, "patience": 1}, 5, (50, 1)),
        ({"epochs": 0}, 0, (0, 2)),
    ],
)
def test_small_logs_are_read_more_often_unless_the_spec_says_how_often(settings, steps, expected):
    length = length_of(TrainingSettings(**settings), steps)
    assert (length.epochs, length.patience) == expected
