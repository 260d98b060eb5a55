"""Passes from a shared graph to one that runs faster: fewer and larger kernels, the same values and FLOPs.

They change how values are computed, never which: what is stored, reported and trained is the graph before them. Nodes
on the item side are left as they are, since the tables of a bound catalogue are made of them.
"""

from __future__ import annotations

from depthrank.sharing.lowering.attend_head_by_head import attend_head_by_head
from depthrank.sharing.lowering.attend_within_rows import attend_within_rows
from depthrank.sharing.lowering.join_unpermuted import join_unpermuted
from depthrank.sharing.lowering.look_up_together import look_up_together
from depthrank.sharing.lowering.mix_experts_in_one_product import mix_experts_in_one_product
from depthrank.sharing.lowering.multiply_by_weights_as_linear import multiply_by_weights_as_linear
from depthrank.sharing.lowering.rebuild import Change, rebuilt
from depthrank.sharing.lowering.run_alike_together import run_alike_together
from depthrank.sharing.lowering.scale_the_smaller_factor import scale_the_smaller_factor
from depthrank.sharing.lowering.take_bias_into_linear import take_bias_into_linear
from depthrank.sharing.program import Program

CHANGES: tuple[Change, ...] = (
    join_unpermuted,
    multiply_by_weights_as_linear,
    take_bias_into_linear,
    mix_experts_in_one_product,
    scale_the_smaller_factor,
    attend_head_by_head,
    attend_within_rows,
)


def lower(program: Program) -> Program:
    """The program as it is run."""
    for change in CHANGES:
        program = rebuilt(program, change)
    return run_alike_together(look_up_together(program))


__all__ = ["CHANGES", "lower"]
