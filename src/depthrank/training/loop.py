"""The training loop: epochs with early stopping on validation, a time limit, and an account of where time goes.

What a step minimises is in ``step_losses``, how it is taken in ``optimizer``. What a step draws at random depends on
the seed, the epoch and the number of its batches alone: a resumed run, and any number of processes, draw the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from depthrank.data import Batch
from depthrank.errors import SpecError
from depthrank.model import ElasticRanker
from depthrank.schema.settings import TrainingSettings
from depthrank.training.admit_rows import TableAdmission
from depthrank.training.batch_inputs import ItemColumns, StepInputs, to_step_inputs
from depthrank.training.batch_stream import Own, Stream, Turn, own_batches
from depthrank.training.epochs import length_of
from depthrank.training.losses import TaskLoss
from depthrank.training.optimizer import StepOptimizer
from depthrank.training.processes import ALONE, Processes
from depthrank.training.step_losses import StepLosses, StepObjective

Batches = Callable[[int], Stream]


@dataclass
class Clock:
    """Seconds spent by phase of a step."""

    data_s: float = 0.0
    forward_s: float = 0.0
    backward_s: float = 0.0
    optimizer_s: float = 0.0
    steps: int = 0
    candidates: int = 0
    requests: int = 0

    @property
    def total_s(self) -> float:
        """Seconds of all phases."""
        return self.data_s + self.forward_s + self.backward_s + self.optimizer_s

    def to_json(self) -> dict[str, float]:
        """Throughput and the share of each phase."""
        total = max(self.total_s, 1e-9)
        return {
            "steps": self.steps,
            "candidates_per_s": self.candidates / total,
            "requests_per_s": self.requests / total,
            **{p: getattr(self, f"{p}_s") / total for p in ("data", "forward", "backward", "optimizer")},
        }


@dataclass(frozen=True)
class EpochResult:
    """One epoch: mean training loss, validation loss by level (the deepest decides), seconds."""

    epoch: int
    train_loss: float
    validation_loss_L: list[float]
    seconds: float
    finished: bool


@dataclass
class Scored:
    """Validation logits of every level with labels: what calibration and reports are made from."""

    logits_LNK: np.ndarray
    label_NK: np.ndarray
    weight_N: np.ndarray
    user_N: np.ndarray


@dataclass(frozen=True)
class _Validated:
    """What one validation batch gave: its number, requests, loss by level, and candidates as ``Scored`` has them."""

    number: int
    requests: int
    losses_L: list[float]
    scored: Scored


@dataclass
class LoopState:
    """What an interrupted run continues from."""

    epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    bad_epochs: int = 0
    history: list[EpochResult] = field(default_factory=list)


class TrainingLoop:
    """Fits a ranker to batches."""

    def __init__(
        self,
        model: ElasticRanker,
        items: ItemColumns,
        tasks: list[TaskLoss],
        settings: TrainingSettings,
        *,
        steps_per_epoch: int,
        admission: TableAdmission | None = None,
        processes: Processes = ALONE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.items, self.tasks, self.settings = model, items, tasks, settings
        self.processes = processes
        self.length = length_of(settings, steps_per_epoch)
        self.total_steps = max(1, steps_per_epoch * self.length.epochs)
        self.seed = torch.initial_seed()
        self.objective = StepObjective(model, tasks, settings)
        self.generator = torch.Generator()  # which requests go deep, and which negatives they get
        self.clock, self.monotonic = Clock(), monotonic
        self.admission = admission
        self.kept: list[nn.Module] = []  # parts of a router that is kept: no dropout in them
        if settings.router == "keep":
            self.kept = [part for part in model.children() if not any(p.requires_grad for p in part.parameters())]
        self.optimizer = StepOptimizer(model, settings, self.total_steps, processes)
        self.state = LoopState()
        self.best_weights: dict[str, Tensor] = {}
        self._time_limit: tuple[float, float] | None = None

    def run(
        self,
        train: Batches,
        validation: Batches,
        *,
        deadline_s: float | None = None,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
        on_epoch: Callable[[EpochResult], None] = lambda result: None,
    ) -> Scored:
        """Train until epochs, patience or ``deadline_s`` (monotonic) end it; leaves the best weights in place."""
        best: Scored | None = None
        self._time_limit = None if deadline_s is None else (self.monotonic(), deadline_s)
        while self.state.epoch < self.length.epochs and self.state.bad_epochs <= self.length.patience:
            started = self.monotonic()
            loss, finished = self._epoch(train(self.state.epoch), deadline_s, on_step)
            losses_L, scored = self.evaluate(validation(0))
            result = EpochResult(self.state.epoch, loss, losses_L, self.monotonic() - started, finished)
            if self._remember(result, has_validation=scored.weight_N.size > 0):
                best = scored
            on_epoch(result)
            if not finished:
                break
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        return self.evaluate(validation(0))[1] if best is None else best  # None: resumed after the best epoch

    def _remember(self, result: EpochResult, *, has_validation: bool) -> bool:
        """Keep the weights where they are the best so far; count epochs without progress.

        Without validation data the last epoch is the best.
        """
        state = self.state
        state.history.append(result)
        state.epoch += 1
        deepest = result.validation_loss_L[-1]
        if has_validation and not deepest < state.best_loss:
            state.bad_epochs += 1
            return False
        state.best_loss, state.bad_epochs = deepest, 0
        self.best_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        return True

    def _epoch(
        self, batches: Stream, deadline_s: float | None, on_step: Callable[[int, float], None]
    ) -> tuple[float, bool]:
        self.model.train()
        for part in self.kept:
            part.eval()
        total, steps = 0.0, 0
        for step in own_batches(self._timed(batches), self.settings.batches_per_step):
            if self._is_late(deadline_s):
                return total / max(steps, 1), False
            loss = self._step(step)
            if not math.isfinite(loss):
                raise SpecError(
                    f"training diverged: the loss of step {self.state.step} of epoch {self.state.epoch + 1} is {loss}; "
                    "lower training.learning_rate, or look for extreme values in the data"
                )
            total, steps = total + loss, steps + 1
            on_step(self.state.step, loss)
        return total / max(steps, 1), True

    def end_together(self) -> None:
        """From here on this process evaluates alone; what the optimizer remembers is dropped."""
        self.processes = ALONE
        self.optimizer.adamw.state.clear()

    def _is_late(self, deadline_s: float | None) -> bool:
        """Whether the time is over for any process."""
        return deadline_s is not None and bool(self.processes.most(int(self.monotonic() >= deadline_s)))

    def _timed(self, batches: Stream) -> Iterator[Turn | Batch]:
        iterator = iter(batches)
        while True:
            before = self.monotonic()
            batch = next(iterator, None)
            self.clock.data_s += self.monotonic() - before
            if batch is None:
                return
            yield batch

    def _step(self, step: Sequence[Own]) -> float:
        """Learn from the batches of a step, this process's and the others'; the loss."""
        loss, clock = 0.0, self.clock
        for own in step:
            t0 = self.monotonic()
            inputs = self._inputs(own.batch, self.settings.deep_share, self._drawing(own.number))
            t1 = self.monotonic()
            with self._autocast():
                losses = self.objective(inputs, self.generator)
                share = losses.total * own.share
            t2 = self.monotonic()
            share.backward()  # type: ignore[no-untyped-call]
            t3 = self.monotonic()
            if self.admission is not None:
                self.admission.count(inputs)
            loss += float(share.detach())
            clock.data_s, clock.forward_s = clock.data_s + t1 - t0, clock.forward_s + t2 - t1
            clock.backward_s += t3 - t2
            clock.candidates += losses.labels.label_NK.shape[0]
            clock.requests += len(own.batch.time_ms)
        before = self.monotonic()
        loss = self.optimizer.step(self.state.step, loss, self._elapsed())
        if self.admission is not None:
            self.admission.move(self.optimizer.adamw)
        clock.optimizer_s += self.monotonic() - before
        clock.steps += 1
        self.state.step += 1
        return loss

    def _drawing(self, number: int) -> torch.Generator:
        """The loop's generator and torch's own, where they are for a batch of this number in this epoch."""
        drawn = np.random.SeedSequence((self.seed, self.state.epoch, number)).generate_state(1, np.uint64)
        torch.manual_seed(int(drawn[0]) >> 1)
        return self.generator.manual_seed(int(drawn[0]) >> 1)

    def _elapsed(self) -> float:
        """The part of the time limit that is over, 0 where there is none."""
        if self._time_limit is None:
            return 0.0
        started, deadline = self._time_limit
        return (self.monotonic() - started) / max(deadline - started, 1e-9)

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.settings.precision == "bf16":
            device = next(self.model.parameters()).device.type
            return torch.autocast(device, dtype=torch.bfloat16)
        return nullcontext()

    def _inputs(self, batch: Batch, share: float, generator: torch.Generator) -> StepInputs:
        """Tensors of a batch; where the step picks negatives itself, for a random ``share`` of the requests."""
        if not batch.positives_only or batch.is_sampled.any() or share >= 1:
            return to_step_inputs(batch, self.items)
        chosen_R = torch.rand(len(batch), generator=generator) < share
        chosen_R[0] = chosen_R[0] | ~chosen_R.any()  # a step without a deep request has no loss at deeper levels
        return to_step_inputs(batch, self.items, chosen_R.nonzero().squeeze(1).numpy())

    def gradients(self, batches: Iterable[Batch]) -> Iterator[None]:
        """One step of the iterator a batch: its gradients are in the parameters, as of evaluation; nothing learns."""
        self.model.eval()
        generator = torch.Generator().manual_seed(0)
        for batch in batches:
            self.model.zero_grad(set_to_none=True)
            inputs = self._inputs(batch, 1.0, generator)
            self.objective(inputs, generator).total.backward()  # type: ignore[no-untyped-call]
            yield
        self.model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self, batches: Stream) -> tuple[list[float], Scored]:
        """Loss by level (NaN without batches), and all logits with labels and importance weights."""
        self.model.eval()
        generator, own = torch.Generator(), []
        for (each,) in filter(None, own_batches(batches, 1)):
            generator.manual_seed(each.number)  # the same negatives after every epoch
            inputs = self._inputs(each.batch, 1.0, generator)
            with self._autocast():
                losses = self.objective(inputs, generator)
            if each.share:
                own.append(_validated(each, inputs, losses))
        every = sorted((one for some in self.processes.gathered(own) for one in some), key=lambda one: one.number)
        if not every:
            levels, tasks = self.model.config.num_levels, len(self.tasks)
            nothing = np.zeros((levels, 0, tasks), np.float32)
            return [math.nan] * levels, Scored(nothing, nothing[0], np.zeros(0), np.zeros(0, object))
        weight = np.array([one.requests for one in every]) / sum(one.requests for one in every)
        losses_L = (weight[:, None] * np.array([one.losses_L for one in every])).sum(axis=0)
        return losses_L.tolist(), Scored(
            np.concatenate([one.scored.logits_LNK for one in every], axis=1),
            np.concatenate([one.scored.label_NK for one in every]),
            np.concatenate([one.scored.weight_N for one in every]),
            np.concatenate([one.scored.user_N for one in every]),
        )


def _validated(own: Own, inputs: StepInputs, losses: StepLosses) -> _Validated:
    labelled = losses.labels
    users = np.asarray(own.batch.user, dtype=object)[inputs.deep_R.numpy()]
    scored = Scored(
        torch.stack(losses.logits_L).numpy(),
        labelled.label_NK.numpy(),
        labelled.log_importance_N.exp().numpy(),
        users[labelled.request_of_candidate_N.numpy()],
    )
    return _Validated(own.number, len(own.batch), [float(loss) for loss in losses.level_losses], scored)
