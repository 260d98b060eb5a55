"""The shared form over live parameters, for a request-grouped training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from depthrank.sharing.calls import check_request_of_candidate, check_rows, group_slots
from depthrank.sharing.ir import Node, Region, map_nodes
from depthrank.sharing.operators import Rows, run_node
from depthrank.sharing.program import Program


class Trainable(nn.Module):
    """``trainable(request_inputs, candidate_inputs, request_of_candidate)`` with gradients to the module's parameters.

    The parameters are the module's own objects, so an optimizer over either sees the other's steps. Slices and folds
    of weights are recomputed at every call.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self._nodes = program.graph.live()
        self._names: dict[str, str] = {}
        for name in {n.name for n in self._nodes if n.op == "parameter"}:
            tensor = program.graph.constants[name]
            own = "p_" + name.replace(".", "__").replace(" ", "_")
            self._names[name] = own
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(own, tensor)
            else:
                self.register_buffer(own, tensor, persistent=False)

    def forward(
        self,
        request_inputs: Mapping[str, Tensor],
        candidate_inputs: Mapping[str, Tensor],
        request_of_candidate: Tensor | None = None,
    ) -> Any:
        """The module's output for N >= 1 candidates, differentiable."""
        sides = self.program.sides
        requests = check_rows(self.program, request_inputs, sides.request, "request_inputs", True)
        rows = check_rows(self.program, candidate_inputs, sides.candidate, "candidate_inputs", False)
        index = check_request_of_candidate(request_of_candidate, requests, rows)
        how = Rows(single=requests == 1, like=next(iter(candidate_inputs.values())), request_of_candidate=index)
        if not how.single and index is not None:
            how.slots, how.slot_of = group_slots(index, requests)
        values: dict[int, Any] = {}
        last_use = _last_uses(self._nodes, self.program.graph.outputs)
        for step, node in enumerate(self._nodes):
            values[node.index] = self._value(node, how, values, request_inputs, candidate_inputs)
            for gone in last_use.get(step, ()):
                values.pop(gone, None)
        return self.program.assemble([values[n.index] for n in self.program.graph.outputs])

    def _value(
        self,
        node: Node,
        how: Rows,
        values: dict[int, Any],
        request: Mapping[str, Tensor],
        candidate: Mapping[str, Tensor],
    ) -> Any:
        if node.op == "parameter":
            return getattr(self, self._names[node.name])
        if node.op == "input":
            return request[node.name] if node.region == Region.REQUEST else candidate[node.name]
        return run_node(node, how, map_nodes(node.args, lambda n: values[n.index]))


def _last_uses(nodes: list[Node], outputs: list[Node]) -> dict[int, list[int]]:
    """Step -> values that nobody reads after it."""
    last: dict[int, int] = {}
    for step, node in enumerate(nodes):
        for used in node.inputs():
            last[used.index] = step
    keep = {n.index for n in outputs}
    out: dict[int, list[int]] = {}
    for index, step in last.items():
        if index not in keep:
            out.setdefault(step, []).append(index)
    return out


__all__ = ["Trainable", "torch"]
