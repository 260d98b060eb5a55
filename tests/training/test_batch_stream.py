"""Whose batch is whose: every batch counts once, and every process has as many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from depthrank.training.batch_stream import batch_stream, own_batches
from depthrank.training.processes import Processes


class Numbers:
    """A loader whose batches are (name, number)."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def batches_in(self, epoch):
        return self.count

    def epoch(self, epoch, only=None):
        return ((self.name, n) for n in range(self.count) if only is None or n in only)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 4), st.integers(1, 3))
def test_processes_share_the_steps_of_one(first, second, count, rounds):
    loaders, per_step = [Numbers("files", first), Numbers("traffic", second)], count * rounds
    alone = list(own_batches(batch_stream(loaders, 0, Processes()), per_step))
    every = [list(own_batches(batch_stream(loaders, 0, Processes(r, count)), per_step)) for r in range(count)]
    assert {len(steps) for steps in every} == {len(alone)}
    for number, step in enumerate(alone):
        together = [steps[number] for steps in every]
        assert len({len(own) for own in together}) == 1, "lookups are collective: as many batches each"
        counted = sorted((o.number, o.batch, o.share) for own in together for o in own if o.share)
        assert counted == [(o.number, o.batch, o.share) for o in step]
        assert sum(o.share for o in step) == 1 or abs(sum(o.share for o in step) - 1) < 1e-9


def test_a_loader_that_ends_early_leaves_its_turns_to_the_other():
    stream = batch_stream([Numbers("files", 3), Numbers("traffic", 1)], 0, Processes())
    assert [turn.batch for turn in stream] == [("files", 0), ("traffic", 0), ("files", 1), ("files", 2)]
