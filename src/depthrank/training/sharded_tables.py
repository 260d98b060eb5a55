"""Tables whose rows lie in blocks on the processes that train together; TorchRec moves ids and rows between them.

A process holds its block of a table with the gradient and the optimizer's memory of it, and asks the others for the
rest of the rows that its batch reads. TorchRec pools bags; here every row asked for is a bag of its own. Its kernel
for rows without pooling damages memory on a CPU (torchrec 1.8.0, fbgemm-gpu-cpu 1.8.0, ``dense``), hence bags; bags
must be as many on every process, hence those that hold nothing.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from depthrank.errors import CapacityError
from depthrank.model import ElasticRanker
from depthrank.model.feature_tokens import FeatureTokens
from depthrank.tables import FusedTable, rows_kept, rows_left_out
from depthrank.training.processes import Processes

SIDES = ("request", "item", "candidate")
NAME = "rows"
SENT_AT_ONCE = 1 << 16
INSTALL = (
    "tables sharded over processes need TorchRec; docs/cluster.md says how to install it so that it can be imported"
)


class ShardedTable(FusedTable):
    """A table of which ``weight`` is this process's block of rows, float [rows here, E]. A lookup is collective."""

    def __init__(self, whole: FusedTable, processes: Processes) -> None:
        """``whole``: a table built with its block of rows alone (``rows_kept``)."""
        with rows_left_out():
            super().__init__(whole.slots, whole.width)
        self.row_map = whole.row_map
        self.processes = processes
        self._sharded = (sharded_bags(self.num_rows, self.width, processes),)  # a tuple: no part of the module's state
        (parameter,) = self._sharded[0].parameters()
        with torch.no_grad():
            parameter.copy_(whole.weight)
        self.weight = parameter

    def embed(self, rows: Tensor) -> Tensor:
        """The rows asked for, wherever they lie, float [..., E]; ``rows`` int64 [...]."""
        asked = rows.reshape(-1)
        lengths = torch.zeros(max(self.processes.most(asked.numel()), 1), dtype=torch.int64)
        lengths[: asked.numel()] = 1
        from torchrec import KeyedJaggedTensor

        bags = KeyedJaggedTensor.from_lengths_sync(keys=[NAME], values=asked, lengths=lengths)
        found: Tensor = self._sharded[0](bags).wait()[NAME]
        return found[: asked.numel()].view(*rows.shape, self.width)

    @torch.no_grad()
    def whole(self) -> FusedTable | None:
        """The table in one piece on the leading process, None on the others."""
        gathered = gathered_rows(self.weight, self.num_rows, self.processes)
        if gathered is None:
            return None
        with rows_left_out():
            table = FusedTable(self.slots, self.width)
        table.row_map = self.row_map
        table.weight = nn.Parameter(gathered)
        return table


def sharded_bags(num_rows: int, width: int, processes: Processes) -> nn.Module:
    """TorchRec's table of sums, cut by rows, with a gradient that the caller's optimizer uses."""
    _quiet()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of optimizers that fbgemm was built without
            from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
            from torchrec.distributed.comm_ops import set_gradient_division
            from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
            from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
            from torchrec.distributed.types import ShardingEnv
    except (ImportError, OSError) as error:
        raise CapacityError(f"{INSTALL}: {error}") from None
    set_gradient_division(False)  # a step's gradient is the sum over processes, as that of dense weights
    config = EmbeddingBagConfig(name=NAME, num_embeddings=num_rows, embedding_dim=width, feature_names=[NAME])
    bags = EmbeddingBagCollection(tables=[config], device=torch.device("meta"))
    sharder: Any = EmbeddingBagCollectionSharder()
    plan = construct_module_sharding_plan(
        bags,
        {NAME: row_wise(compute_kernel="dense")},
        sharder=sharder,
        local_size=processes.count,
        world_size=processes.count,
        device_type="cpu",
    )
    sharded: nn.Module = sharder.shard(
        bags, plan, ShardingEnv.from_process_group(dist.group.WORLD), torch.device("cpu")
    )
    return sharded


def _quiet() -> None:
    """Nothing that TorchRec 1.8 says of torch 2.13 on every run is the user's concern; its gradients are checked by
    tests/training/test_two_processes.py."""
    for name in ("torchrec", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "fbgemm::dense_embedding_codegen_lookup_function", UserWarning)
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)


def gathered_rows(own: Tensor, num_rows: int, processes: Processes) -> Tensor | None:
    """All rows on the leading process, received piece by piece; None on the others."""
    if not processes.leads:
        for piece in torch.split(own.detach(), SENT_AT_ONCE):
            dist.send(piece.contiguous(), dst=0)
        return None
    rows = torch.empty(num_rows, own.shape[1])
    rows[: len(own)] = own
    for rank in range(1, processes.count):
        block = Processes(rank, processes.count).rows(num_rows)
        for piece in torch.split(rows[block.start : block.stop], SENT_AT_ONCE):
            dist.recv(piece, src=rank)
    return rows


@contextmanager
def tables_of(processes: Processes) -> Iterator[None]:
    """A model built meanwhile holds this process's rows alone; make it usable with ``shard_tables_``."""
    if not processes.together:
        yield
        return
    with rows_kept(processes.rows):
        yield


def shard_tables_(model: ElasticRanker, processes: Processes) -> None:
    """Tables of a model that was built under ``tables_of`` find the rows that lie elsewhere.

    Raises CapacityError where TorchRec is missing.
    """
    if processes.together:
        for features in _features(model):
            assert isinstance(features.table, FusedTable)
            features.table = ShardedTable(features.table, processes)


def whole_tables_(model: ElasticRanker) -> None:
    """On the leading process every table in one piece; on the others the model is of no use any more."""
    for features in _features(model):
        if isinstance(features.table, ShardedTable):
            features.table = features.table.whole()


def sharded_weights(model: nn.Module) -> list[Tensor]:
    """The parameters of which each process has another part."""
    return [table.weight for table in model.modules() if isinstance(table, ShardedTable)]


def _features(model: ElasticRanker) -> list[FeatureTokens]:
    found = [getattr(model, f"{side}_features") for side in SIDES]
    return [features for features in found if isinstance(features, FeatureTokens) and features.table is not None]
