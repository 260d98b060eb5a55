"""The processes that train one model together: each takes its batches of a step, and all take the step at once.

Dense weights are held by every process and their gradients summed; rows of tables lie in shards (sharded_tables.py).
What a step does depends on its batches alone, so that any number of processes learns the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among ``count``; alone it speaks to nobody. Calls are collective: every process makes each of them,
    in the same order."""

    rank: int = 0
    count: int = 1

    @property
    def together(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and shows."""
        return self.rank == 0

    def owns(self, number: int) -> bool:
        """Whether the batch of this number is this process's."""
        return number % self.count == self.rank

    def rows(self, num_rows: int) -> range:
        """Which rows of a table lie here: equal blocks, the last ones smaller (TorchRec's row-wise cut)."""
        block = -(-num_rows // self.count)
        return range(min(self.rank * block, num_rows), min((self.rank + 1) * block, num_rows))

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors by their sums over all processes, in one message."""
        if not self.together or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [x.numel() for x in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if not self.together:
            return number
        told = torch.tensor([number])
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return int(told)

    def gathered(self, own: T) -> list[T]:
        """What each process gives, by rank; every process gets all."""
        if not self.together:
            return [own]
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, own)
        return every

    def told_by_leader(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the leading process, the only one to do it."""
        if not self.together:
            return work()
        box: list[Any] = [work() if self.leads else None]
        dist.broadcast_object_list(box, src=0)
        told: T = box[0]
        return told

    def tell_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the leading process."""
        if self.together:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Until every process is here."""
        if self.together:
            dist.barrier()


ALONE = Processes()
