"""A rank request as tensors, and its answer as tensors.

Inputs: ``user`` [1]; ``item`` [N] (none: the whole catalogue); optional ``top``, ``time_ms``, ``deadline_ms``,
``budget``, ``mode`` [1], ``context.NAME`` [1] or [K]; every other input is a candidate column, [N] or [N, K]. Outputs,
in order: ``item``, ``value``, ``level``, ``index`` (the candidate's row) and the probability of each task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import FieldProblem, RequestError, did_you_mean
from depthrank.schema import Answer, Limits, Request, Spec
from depthrank.schema.features import Numeric, Vector
from depthrank.schema.spec_reads import columns_read
from depthrank.schema.wire import read_request
from depthrank.server.protocols.oip_tensors import BYTES, Tensor

OWN = ("user", "top", "time_ms", "deadline_ms", "budget", "mode", "priority")
CONTEXT = "context."
FIXED_OUTPUTS = {"item": BYTES, "value": "FP64", "level": "INT32", "index": "INT32"}
PRIORITIES = {1: "high", 2: "normal"}
Described = dict[str, Any]


def rank_request(
    header: Mapping[str, Any], inputs: Mapping[str, Tensor], limits: Limits, *, wall_clock: bool
) -> Request:
    """The checked request that the inputs describe. Raises RequestError, TooLargeError."""
    plain: dict[str, Any] = _of_parameters(header.get("parameters"))
    context: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for name, tensor in inputs.items():
        if name in OWN:
            plain[name] = _one(name, tensor)
        elif name.startswith(CONTEXT):
            values = _listed(tensor)
            context[name.removeprefix(CONTEXT)] = values[0] if len(values) == 1 else values
        else:
            columns[name] = _column(name, tensor)
    if columns and "item" not in columns:
        raise RequestError(
            "the inference request is wrong:", [FieldProblem("item", "no such input", "the candidates' ids [N]")]
        )
    candidates = columns if len(columns) > 1 else columns.get("item", "all")
    return read_request(plain | {"context": context, "candidates": candidates}, limits, wall_clock=wall_clock)


def _of_parameters(parameters: Any) -> dict[str, Any]:
    """Triton's own parameters: ``timeout`` in microseconds is a deadline, ``priority`` 1 the highest."""
    plain: dict[str, Any] = {}
    if isinstance(parameters, dict):
        timeout_us, priority = parameters.get("timeout"), parameters.get("priority")
        if type(timeout_us) is int and timeout_us > 0:
            plain["deadline_ms"] = timeout_us / 1000
        if type(priority) is int and priority > 0:
            plain["priority"] = PRIORITIES.get(priority, "low")
    return plain


def _one(name: str, tensor: Tensor) -> Any:
    values = _listed(tensor)
    if len(values) != 1:
        raise RequestError(
            "the inference request is wrong:", [FieldProblem(name, f"{len(values)} values", "one value, shape [1]")]
        )
    return values[0]


def _listed(tensor: Tensor) -> list[Any]:
    return tensor.values if isinstance(tensor.values, list) else tensor.values.tolist()


def _column(name: str, tensor: Tensor) -> Any:
    """One value a candidate: numbers stay an array; a row of several values is a list."""
    rows = tensor.shape[0] if tensor.shape else 1
    values = tensor.values
    if len(tensor.shape) > 1 and len(values) != rows:
        width = len(values) // rows if rows else 0
        listed = _listed(tensor)
        return [listed[i * width : (i + 1) * width] for i in range(rows)]
    if isinstance(values, list) or values.dtype.kind == "b":
        return _listed(tensor)
    if values.dtype.kind == "u" and values.size and int(values.max()) > np.iinfo(np.int64).max:
        problem = FieldProblem(name, "a number above 64 signed bits", "ids and numbers of at most 64 bits")
        raise RequestError("the inference request is wrong:", [problem])
    wide: NDArray[Any] = values.astype(np.float64 if values.dtype.kind == "f" else np.int64, copy=False)
    return wide


def output_names(spec: Spec) -> dict[str, str]:
    """Output -> its task (or itself, for what is no task); a task that is named as an output of ours stands apart."""
    tasks = {f"task.{task}" if task in FIXED_OUTPUTS else task: task for task in spec.tasks}
    return {name: name for name in FIXED_OUTPUTS} | tasks


def rank_outputs(answer: Answer, spec: Spec, wanted: Sequence[str]) -> dict[str, Tensor]:
    """The wanted outputs, each of shape [n]."""
    items, shape = answer.items, (len(answer.items),)
    found: dict[str, Tensor] = {}
    for name in wanted:
        if name == "item":
            found[name] = Tensor(BYTES, shape, [item.item for item in items])
        elif name == "index":
            index = [item.index if isinstance(item.index, int) else -1 for item in items]
            found[name] = Tensor("INT32", shape, np.array(index, np.int32))
        elif name in FIXED_OUTPUTS:
            dtype = np.float64 if name == "value" else np.int32
            found[name] = Tensor(FIXED_OUTPUTS[name], shape, np.array([getattr(i, name) for i in items], dtype))
        else:
            task = output_names(spec)[name]
            found[name] = Tensor("FP64", shape, np.array([item.scores[task] for item in items], np.float64))
    return found


def wanted_outputs(header: Mapping[str, Any], spec: Spec) -> tuple[list[str], frozenset[str]]:
    """The outputs that are asked for (all, where none is named), and which of them as bytes. Raises RequestError."""
    known = list(output_names(spec))
    by_default = _flag(header.get("parameters"), "binary_data_output") is True
    given = header.get("outputs")
    if not isinstance(given, list) or not given:
        return known, frozenset(known if by_default else ())
    names, binary = [], set()
    for i, output in enumerate(given):
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in known:
            near = did_you_mean(name, known) if isinstance(name, str) else None
            hint = f"did you mean {near!r}?" if near else None
            problem = FieldProblem(f"$.outputs[{i}].name", repr(name)[:80], "one of " + ", ".join(known), hint)
            raise RequestError("the inference request is wrong:", [problem])
        names.append(name)
        own = _flag(output.get("parameters"), "binary_data")
        if own is True or (own is None and by_default):
            binary.add(name)
    return list(dict.fromkeys(names)), frozenset(binary)


def _flag(parameters: Any, name: str) -> Any:
    return parameters.get(name) if isinstance(parameters, dict) else None


def described_inputs(spec: Spec) -> list[Described]:
    """The inputs of the model's metadata: ours, and the columns that the spec's features read."""
    fixed = {"user": (BYTES, [1]), "item": (BYTES, [-1]), "top": ("INT64", [1]), "time_ms": ("INT64", [1])}
    fixed |= {"deadline_ms": ("FP64", [1]), "budget": ("FP64", [1]), "mode": (BYTES, [1])}
    texts = dict[str, bool]()  # by source, as the first feature reads it
    for feature in spec.features.values():
        texts.setdefault(getattr(feature, "source", ""), not isinstance(feature, Numeric | Vector))
    read = columns_read(spec)
    for name in read.context:
        fixed[CONTEXT + name] = (BYTES if texts[f"context.{name}"] else "FP64", [1])
    for name in read.candidates:
        fixed.setdefault(name, (BYTES if texts.get(f"candidate.{name}", False) else "FP64", [-1]))
    if spec.value.times is not None:
        fixed.setdefault(spec.value.times, ("FP64", [-1]))
    return [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in fixed.items()]


def described_outputs(spec: Spec) -> list[Described]:
    """The outputs of the model's metadata."""
    return [{"name": n, "datatype": FIXED_OUTPUTS.get(n, "FP64"), "shape": [-1]} for n in output_names(spec)]
