"""The batches of an epoch in the order in which steps take them, each made by the process that trains on it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

from depthrank.data import Batch, BatchLoader
from depthrank.training.processes import Processes


@dataclass(frozen=True)
class Turn:
    """One place in the order. ``batch``: None where it is another process's. ``counts``: False where a batch is there
    a second time, computed because lookups are collective, and its loss is nobody's."""

    batch: Batch | None
    counts: bool = True


@dataclass(frozen=True)
class Own:
    """A batch of this process: its number in the epoch, and its share of its step's loss."""

    batch: Batch
    number: int
    share: float


Stream = Iterable[Turn | Batch]


def batch_stream(loaders: Sequence[BatchLoader], epoch: int, processes: Processes) -> Generator[Turn, None, None]:
    """One batch of each loader in turn until all are done; some a second time until every process has as many."""
    turns = [[(which, number) for number in range(x.batches_in(epoch))] for which, x in enumerate(loaders)]
    order = [turn for turn in chain.from_iterable(zip_longest(*turns)) if turn is not None]
    count = len(order)
    order += order[-1:] * (-count % processes.count)
    mine: list[set[int]] = [set() for _ in loaders]
    for place, (which, number) in enumerate(order):
        if processes.owns(place):
            mine[which].add(number)
    with ExitStack() as stack:
        sources = [stack.enter_context(closing(x.epoch(epoch, only))) for x, only in zip(loaders, mine, strict=True)]
        for place, (which, _) in enumerate(order):
            yield Turn(next(sources[which]) if processes.owns(place) else None, counts=place < count)


def own_batches(stream: Stream, per_step: int) -> Iterator[list[Own]]:
    """What this process does at each step, where a step learns from so many batches."""
    turns = enumerate(turn if isinstance(turn, Turn) else Turn(turn) for turn in stream)
    while group := list(islice(turns, per_step)):
        counted = max(1, sum(turn.counts for _, turn in group))
        yield [Own(turn.batch, number, turn.counts / counted) for number, turn in group if turn.batch is not None]
