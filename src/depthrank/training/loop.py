"""The training loop: epochs with early stopping on validation, a time limit, and an account of where time goes.

What a step minimises is in ``step_losses``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
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
from depthrank.training.losses import TaskLoss
from depthrank.training.step_losses import StepObjective

Batches = Callable[[int], Iterable[Batch]]
GRADIENT_NORM = 1.0
WARM_UP_SHARE = 0.05


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
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.items, self.tasks, self.settings = model, items, tasks, settings
        self.total_steps = max(1, steps_per_epoch * settings.epochs)
        self.objective = StepObjective(model, tasks, settings)
        self.generator = torch.Generator()  # which requests go deep, and which negatives they get
        self.clock, self.monotonic = Clock(), monotonic
        self.admission = admission
        self.kept: list[nn.Module] = []  # parts of a router that is kept: no dropout in them
        if settings.router == "keep":
            self.kept = [part for part in model.children() if not any(p.requires_grad for p in part.parameters())]
        self.optimizer = make_optimizer(model, settings)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
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
        while self.state.epoch < self.settings.epochs and self.state.bad_epochs <= self.settings.patience:
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
        self, batches: Iterable[Batch], deadline_s: float | None, on_step: Callable[[int, float], None]
    ) -> tuple[float, bool]:
        self.model.train()
        for part in self.kept:
            part.eval()
        self.generator.manual_seed((torch.initial_seed() + self.state.epoch) % 2**63)  # a resumed run draws the same
        total, steps = 0.0, 0
        for batch in self._timed(batches):
            if deadline_s is not None and self.monotonic() >= deadline_s:
                return total / max(steps, 1), False
            loss = self._step(batch)
            if not math.isfinite(loss):
                raise SpecError(
                    f"training diverged: the loss of step {self.state.step} of epoch {self.state.epoch + 1} is {loss}; "
                    "lower training.learning_rate, or look for extreme values in the data"
                )
            total, steps = total + loss, steps + 1
            on_step(self.state.step, loss)
        return total / max(steps, 1), True

    def _timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        iterator = iter(batches)
        while True:
            before = self.monotonic()
            batch = next(iterator, None)
            self.clock.data_s += self.monotonic() - before
            if batch is None:
                return
            yield batch

    def _step(self, batch: Batch) -> float:
        t0 = self.monotonic()
        inputs = self._inputs(batch, self.settings.deep_share)
        t1 = self.monotonic()
        with self._autocast():
            losses = self.objective(inputs, self.generator)
            loss = losses.total
        t2 = self.monotonic()
        loss.backward()  # type: ignore[no-untyped-call]
        t3 = self.monotonic()
        self._set_learning_rate()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.admission is not None:
            self.admission.after_step(inputs, self.optimizer)
        t4 = self.monotonic()
        clock = self.clock
        clock.data_s, clock.forward_s = clock.data_s + t1 - t0, clock.forward_s + t2 - t1
        clock.backward_s, clock.optimizer_s = clock.backward_s + t3 - t2, clock.optimizer_s + t4 - t3
        clock.steps, clock.candidates = clock.steps + 1, clock.candidates + losses.labels.label_NK.shape[0]
        clock.requests += len(batch.time_ms)
        self.state.step += 1
        return float(loss.detach())

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.settings.precision == "bf16":
            device = next(self.model.parameters()).device.type
            return torch.autocast(device, dtype=torch.bfloat16)
        return nullcontext()

    def _inputs(self, batch: Batch, share: float) -> StepInputs:
        """Tensors of a batch; where the step picks negatives itself, for a random ``share`` of the requests."""
        if not batch.positives_only or batch.is_sampled.any() or share >= 1:
            return to_step_inputs(batch, self.items)
        chosen_R = torch.rand(len(batch), generator=self.generator) < share
        chosen_R[0] = chosen_R[0] | ~chosen_R.any()  # a step without a deep request has no loss at deeper levels
        return to_step_inputs(batch, self.items, chosen_R.nonzero().squeeze(1).numpy())

    def gradients(self, batches: Iterable[Batch]) -> Iterator[None]:
        """One step of the iterator a batch: its gradients are in the parameters, as of evaluation; nothing learns."""
        self.model.eval()
        generator = torch.Generator().manual_seed(0)
        for batch in batches:
            self.model.zero_grad(set_to_none=True)
            self.objective(self._inputs(batch, 1.0), generator).total.backward()  # type: ignore[no-untyped-call]
            yield
        self.model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> tuple[list[float], Scored]:
        """Loss by level (NaN without batches), and all logits with labels and importance weights."""
        self.model.eval()
        sums_L, count = np.zeros(self.model.config.num_levels), 0
        logits, labels, weights, users = [], [], [], []
        generator = torch.Generator().manual_seed(0)  # the same negatives after every epoch
        for batch in batches:
            inputs = self._inputs(batch, 1.0)
            with self._autocast():
                losses = self.objective(inputs, generator)
            sums_L += len(batch) * np.array([float(loss) for loss in losses.level_losses])
            count += len(batch)
            labelled = losses.labels
            logits.append(torch.stack(losses.logits_L).numpy())
            labels.append(labelled.label_NK.numpy())
            weights.append(labelled.log_importance_N.exp().numpy())
            deep_users = np.asarray(batch.user, dtype=object)[inputs.deep_R.numpy()]
            users.append(deep_users[labelled.request_of_candidate_N.numpy()])
        if not count:
            nothing = np.zeros((self.model.config.num_levels, 0, len(self.tasks)), np.float32)
            return [math.nan] * len(sums_L), Scored(nothing, nothing[0], np.zeros(0), np.zeros(0, object))
        scored = Scored(
            np.concatenate(logits, axis=1), np.concatenate(labels), np.concatenate(weights), np.concatenate(users)
        )
        return (sums_L / count).tolist(), scored

    def _set_learning_rate(self) -> None:
        """Linear warm-up, then a cosine to a twentieth, over the steps or, where it is nearer, the time limit."""
        done = self.state.step / self.total_steps
        if self._time_limit is not None:
            started, deadline = self._time_limit
            done = max(done, (self.monotonic() - started) / max(deadline - started, 1e-9))
        warm = min(1.0, self.state.step / (WARM_UP_SHARE * self.total_steps) + 1e-3)
        factor = warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor


def make_optimizer(model: ElasticRanker, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices of the dense part only, tables at their own rate."""
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    tables = [p for name, p in learned if name.endswith("table.weight")]
    dense = [p for name, p in learned if not name.endswith("table.weight")]
    groups = [
        {"params": [p for p in dense if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in dense if p.ndim <= 1], "weight_decay": 0.0},
        {"params": tables, "weight_decay": 0.0, "lr": settings.table_learning_rate or settings.learning_rate},
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
