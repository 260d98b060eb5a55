"""Operators that have no rule, in terms of operators that have one.

torch ships what most of its operators are made of (``tensordot``, a GRU cell, ``diff``, ``quantile``...). A captured
graph is taken apart only where a rule is missing, so linear layers, attention and recurrent nets stay whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.export import ExportedProgram, default_decompositions

_ROUNDS = 4  # what an operator is made of may itself need it


def decompose(program: ExportedProgram, has_rule: Callable[[str], bool]) -> ExportedProgram:
    """The same program, functional, with every operator that has no rule taken apart as far as torch can."""
    program = program.run_decompositions({})
    known: dict[Any, Any] | None = None
    tried: set[str] = set()
    for _ in range(_ROUNDS):
        missing = _without_rule(program, has_rule) - tried
        if not missing:
            break
        tried |= missing
        known = dict(default_decompositions()) if known is None else known
        table = {op: known[op] for op in known if str(op) in missing}
        if not table:
            break
        program = program.run_decompositions(table)
    return program


def _without_rule(program: ExportedProgram, has_rule: Callable[[str], bool]) -> set[str]:
    names = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    return {name for name in names if name.startswith("aten.") and not has_rule(name)}
