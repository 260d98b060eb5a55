"""softmax(q_n k_n^T) v_n of a few positions of every candidate n by a kernel that takes sixteen candidates at a time.

Fused attention of torch is made for long sequences: thirty fields of width eight take it two to four times as long.
"""

from __future__ import annotations

from typing import Any

import torch

from depthrank.kernels import small_attention_kernel
from depthrank.kernels.small_attention import fits
from depthrank.sharing.ir import Node, Region
from depthrank.sharing.lowering.rebuild import Rebuild


def attend_within_rows(r: Rebuild, node: Node, args: tuple[Any, ...]) -> Node | None:
    """Attention whose queries, keys and values are all the candidate's own."""
    if node.op != "attention" or node.region != Region.MIXED or node.dtype != torch.float32:
        return None
    q, k, v, mask, _ = args
    if any(x.region != Region.MIXED for x in (q, k, v)) or not fits(k.dims[1], k.dims[2] + v.dims[2]):
        return None
    if mask is not None and mask.dtype not in (torch.bool, torch.float32):
        return None
    if small_attention_kernel() is None:
        return None
    return r.new.add("attend_within_rows", args, node.region, node.dims, node.dtype)
