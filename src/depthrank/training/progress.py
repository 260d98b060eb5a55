"""Progress of a training run: bars and epoch lines on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from depthrank.training.loop import EpochResult


class TrainingProgress:
    """Told about phases, steps and epochs; shows them where a person looks."""

    def __init__(self, enabled: bool) -> None:
        self.console = Console(stderr=True)
        self.enabled = enabled and sys.stderr.isatty()
        self._bar: Progress | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A step of unknown length."""
        if not self.enabled:
            yield
            return
        with self.console.status(name):
            yield

    @contextmanager
    def steps(self, total: int) -> Iterator[None]:
        """The training steps; call ``step`` for each."""
        if not self.enabled:
            yield
            return
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}"), console=self.console) as bar:
            self._bar, self._task = bar, bar.add_task("training", total=total, loss=float("nan"))
            yield
        self._bar = None

    def step(self, step: int, loss: float) -> None:
        """One optimizer step is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, loss=loss)

    def epoch(self, result: EpochResult) -> None:
        """One epoch is done."""
        if self.enabled:
            levels = "  ".join(f"level {i} {loss:.4f}" for i, loss in enumerate(result.validation_loss_L))
            losses = f"training {result.train_loss:.4f}, validation {levels}"
            self.console.print(f"epoch {result.epoch + 1}: {losses} ({result.seconds:.0f} s)")
