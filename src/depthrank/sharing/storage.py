"""A shared model on disk: ``graph.json``, ``tensors.safetensors`` and the tables of a catalogue; nothing executable.

The graph is a list of operators from the allow-list of ``operators``; the loader checks every name, argument and size
before anything runs, and raises ``ArtifactError`` for whatever does not fit.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from depthrank.errors import ArtifactError, SharingError
from depthrank.sharing.inputs import Sides
from depthrank.sharing.ir import Graph, Node, Region
from depthrank.sharing.operators import IMPLEMENTATIONS, aten_operator, shape_on_meta
from depthrank.sharing.program import Program
from depthrank.sharing.report import Line, Remaining, Report, Written
from depthrank.sharing.shared import BoundShared, Shared
from depthrank.sharing.tables import map_table, table_path, write_tables

FORMAT = "depthrank.shared"
VERSION = 2
_CROSSING = (
    "lift",
    "spread",
    "shared_einsum",
    "shared_attention",
    "linear_with_request_term",
    "linear_by_request",
    "shared_take_rows",
)
_MALFORMED = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, NotImplementedError, OverflowError,
    AssertionError,
)  # fmt: skip
MOST_NODES = 200_000
MOST_BYTES = 256 << 20  # of graph.json

_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
        torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip
_LAYOUT_WORDS = {"contiguous_format": torch.contiguous_format, "preserve_format": torch.preserve_format}


def save_program(
    program: Program,
    report: Report,
    folder: Path,
    tables: tuple[Tensor, ...] = (),
    num_items: int = 0,
    sha256: list[str] | None = None,
) -> None:
    """Write a program with its constants folded, and its tables unless they lie there already (``sha256``).

    Raises ``SharingError`` if the outputs are no plain containers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digests = write_tables(folder, [tables] if tables else [], len(tables)) if sha256 is None else sha256
    constants = program.fold_constants()
    live = [n for n in program.graph.live() if n.region != Region.CONSTANT or n.index in constants]
    number = {n.index: k for k, n in enumerate(live)}
    nodes = [_node_to_json(n, number, constants) for n in live]
    header = {
        "format": FORMAT,
        "version": VERSION,
        "request": list(program.sides.request),
        "candidate": list(program.sides.candidate),
        "packed": {k: list(v) for k, v in program.sides.packed.items()},
        "width": program.sides.width,
        "bound": list(program.bound),
        "inputs": {n: {"dims": list(program.dims[n]), "dtype": _dtype_name(program.dtypes[n])} for n in program.dtypes},
        "outputs": [number[n.index] for n in program.graph.outputs],
        "structure": _structure(program),
        "num_items": num_items,
        "tables": [{"sha256": digest} for digest in digests],
        "nodes": nodes,
        "report": asdict(report),
    }
    tensors = {f"c{number[k]}": t.contiguous().clone() for k, t in constants.items()}
    save_file(tensors, str(folder / "tensors.safetensors"))
    (folder / "graph.json").write_text(json.dumps(header))


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _node_to_json(node: Node, number: dict[int, int], constants: dict[int, Tensor]) -> dict[str, Any]:
    out: dict[str, Any] = {"region": int(node.region), "dims": list(node.dims), "dtype": _dtype_name(node.dtype)}
    if node.index in constants:
        return out | {"op": "parameter", "name": f"c{number[node.index]}"}
    out["op"] = node.op
    if node.op == "input":
        out["name"] = node.name
    out["args"] = [_to_json(a, number) for a in node.args]
    if node.kwargs:
        out["kwargs"] = {k: _to_json(v, number) for k, v in node.kwargs}
    if node.source:
        out["source"] = node.source
    return out


def _to_json(value: Any, number: dict[int, int]) -> Any:
    if isinstance(value, Node):
        return {"node": number[value.index]}
    if isinstance(value, tuple):
        return [_to_json(v, number) for v in value]
    if isinstance(value, torch.dtype):
        return {"dtype": _dtype_name(value)}
    if isinstance(value, torch.memory_format):
        return {"layout": str(value).removeprefix("torch.")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise SharingError(f"an argument of type {type(value).__name__} cannot be saved")


def _structure(program: Program) -> Any:
    """The nesting of the outputs: dicts, lists and tuples with output numbers."""
    leaves = [{"output": v} if isinstance(v, int) else {"value": v[1]} for v in program.output_values]
    return _encode(pytree.tree_unflatten([_Leaf(x) for x in leaves], program.output_spec))


class _Leaf:
    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content


def _encode(value: Any) -> Any:
    if isinstance(value, _Leaf):
        return value.content
    if type(value) is dict and all(isinstance(k, str) for k in value):
        return {"dict": [[k, _encode(v)] for k, v in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encode(v) for v in value]}
    raise SharingError(f"outputs in a {type(value).__name__} cannot be saved; return a tensor, tuple, list or dict")


# ------------------------------------------------------------------------------------------------------------ loading


def load_shared(folder: str | Path, check_tables: bool = True) -> Shared | BoundShared:
    """Read a saved model; raises ``ArtifactError`` for a file that is missing, altered, truncated or hostile.

    Tables are mapped, not read. ``check_tables=False`` leaves their SHA-256 unchecked, which reads them once.
    """
    path = Path(folder)
    header = _read_header(path / "graph.json")
    tensors = _read_tensors(path / "tensors.safetensors")
    try:
        program = _Loader(header, tensors).program()
        report = _report(header["report"])
        num_items = _count(header, "num_items")
        tables = _mapped_tables(path, program, num_items, header["tables"], check_tables)
        if program.bound:
            return BoundShared(program, report, tables, num_items)
        report.pays = True  # a loaded model has no original to fall back to
        return Shared(program, report, None, None)
    except ArtifactError:
        raise
    except _MALFORMED as error:
        raise ArtifactError(f"{path / 'graph.json'} is not a shared model: {type(error).__name__}: {error}") from error
    except RecursionError as error:
        raise ArtifactError(f"{path / 'graph.json'} is nested too deeply") from error


def _count(header: dict[str, Any], key: str) -> int:
    value = header[key]
    if type(value) is not int or value < 0:
        raise ArtifactError(f"graph.json: {key} is {value!r}; expected a count")
    return value


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; expected the folder that save() wrote")
    if path.stat().st_size > MOST_BYTES:
        raise ArtifactError(f"{path} is larger than {MOST_BYTES} bytes")
    try:
        header = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is no JSON: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ArtifactError(f"{path} is no shared model (format {FORMAT!r} expected)")
    if header.get("version") != VERSION:
        raise ArtifactError(f"{path} has version {header.get('version')!r}; this program reads {VERSION}")
    return header


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; expected the folder that save() wrote")
    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def _mapped_tables(
    folder: Path, program: Program, num_items: int, about: list[dict[str, Any]], check: bool
) -> tuple[Tensor, ...]:
    """One table for every item-side value, of the sizes that the graph gives it."""
    frontier = program.frontier(Region.ITEM)
    if len(frontier) != len(about):
        raise ArtifactError(f"{len(about)} catalogue tables for {len(frontier)} item-side values")
    return tuple(
        map_table(table_path(folder, k), (num_items, *node.dims), node.dtype, entry.get("sha256"), check)
        for k, (node, entry) in enumerate(zip(frontier, about, strict=True))
    )


def _report(value: dict[str, Any]) -> Report:
    value = dict(value)
    kinds: tuple[tuple[str, Any], ...] = (
        ("applied", Line),
        ("declined", Line),
        ("written_out", Written),
        ("remaining", Remaining),
    )
    for key, kind in kinds:
        value[key] = [kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in x.items()}) for x in value[key]]
    for key in ("request_inputs", "candidate_inputs"):
        value[key] = tuple(value[key])
    return Report(**value)


class _Loader:
    """Rebuilds a graph node by node; sizes and dtypes are inferred again and must agree with the file."""

    def __init__(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.header = header
        self.tensors = tensors
        self.graph = Graph()
        self.nodes: list[Node] = []

    def program(self) -> Program:
        raw = self.header["nodes"]
        if not isinstance(raw, list) or len(raw) > MOST_NODES:
            raise ArtifactError(f"graph.json: nodes must be a list of at most {MOST_NODES}")
        for place, item in enumerate(raw):
            try:
                self.nodes.append(self._node(item))
            except _MALFORMED as error:
                raise ArtifactError(f"graph.json: $.nodes[{place}]: {type(error).__name__}: {error}") from error
        self.graph.outputs = [self._at(k) for k in self.header["outputs"]]
        if any(n.region not in (Region.MIXED, Region.CONSTANT) for n in self.graph.outputs):
            raise ArtifactError("graph.json: an output is not candidate-side")
        values: list[Any] = []
        structure = self._structure(self.header["structure"], values, 0)
        _, spec = pytree.tree_flatten(structure)
        inputs = self.header["inputs"]
        dtypes = {n: _DTYPES[v["dtype"]] for n, v in inputs.items()}
        dims = {n: _sizes(v["dims"]) for n, v in inputs.items()}
        sides = self._sides(dims)
        bound = tuple(self.header["bound"])
        if not set(bound) <= set(sides.candidate):
            raise ArtifactError("graph.json: bound names an input that is not a candidate's")
        return Program(self.graph, sides, bound, spec, tuple(values), dtypes, dims)

    def _sides(self, dims: dict[str, tuple[int, ...]]) -> Sides:
        h = self.header
        packed = {k: _sizes(v) for k, v in h["packed"].items()}
        width = {k: _size(v) for k, v in h["width"].items()}
        sides = Sides(tuple(h["request"]), tuple(h["candidate"]), packed, width)
        names = set(sides.request) | set(sides.candidate)
        used = {n.name for n in self.graph.nodes if n.op == "input"}
        if (
            not all(isinstance(n, str) for n in names)
            or not used <= names
            or not names <= set(dims)
            or not sides.candidate
        ):
            raise ArtifactError("graph.json: inputs of the graph and of the header differ")
        if set(packed) != set(width) or not set(packed) <= set(sides.request) & set(sides.candidate):
            raise ArtifactError("graph.json: packed inputs are inconsistent")
        return sides

    def _at(self, index: Any) -> Node:
        if type(index) is not int or not 0 <= index < len(self.nodes):
            raise ArtifactError(f"graph.json: node {index!r} is not defined before its use")
        return self.nodes[index]

    def _node(self, item: dict[str, Any]) -> Node:
        region, dims, dtype = Region(item["region"]), _sizes(item["dims"]), _DTYPES[item["dtype"]]
        op = item["op"]
        self.graph.source = str(item.get("source", ""))[:500]
        if op == "parameter":
            return self._parameter(item["name"], region, dims, dtype)
        if op == "input":
            if region == Region.CONSTANT:
                raise ArtifactError("graph.json: an input cannot be constant")
            return self.graph.input(str(item["name"]), region, dims, dtype)
        if not isinstance(op, str) or (op not in IMPLEMENTATIONS and aten_operator(op) is None):
            raise ArtifactError(f"graph.json: operator {op!r} is not on the allow-list")
        if region == Region.CONSTANT:
            raise ArtifactError("graph.json: constants are stored, not computed")
        args = tuple(self._value(a, 0) for a in item["args"])
        kwargs = tuple(sorted((str(k), self._value(v, 0)) for k, v in item.get("kwargs", {}).items()))
        node = Node(len(self.graph.nodes), op, args, region, dims, dtype, "", self.graph.source, kwargs)
        self._check(node)
        self.graph.nodes.append(node)
        return node

    def _parameter(self, name: str, region: Region, dims: tuple[int, ...], dtype: torch.dtype) -> Node:
        tensor = self.tensors[name]
        if region != Region.CONSTANT or tuple(tensor.shape) != dims or tensor.dtype != dtype:
            raise ArtifactError(
                f"tensor {name} is {tensor.dtype} {list(tensor.shape)}; the graph expects {dtype} {list(dims)}"
            )
        return self.graph.parameter(name, tensor)

    def _check(self, node: Node) -> None:
        """The file's word on a node must be what the node computes."""
        regions = {n.region for n in node.inputs()}
        free = {Region.CONSTANT}
        crossing = node.op in _CROSSING
        if crossing:
            if node.region != Region.MIXED:
                raise ArtifactError(f"graph.json: {node.op} must be candidate-side")
        elif not regions <= free | {node.region}:
            raise ArtifactError(
                f"graph.json: {node.op} reads {sorted(r.name for r in regions)} on the {node.region.name} side"
            )
        found = shape_on_meta(node)
        if node.op not in ("item",) and found[0] != (node.dims, node.dtype):
            raise ArtifactError(f"graph.json: {node.op} gives {found[0]}; the file says {(node.dims, node.dtype)}")

    def _value(self, value: Any, depth: int) -> Any:
        if depth > 4:
            raise ArtifactError("graph.json: an argument is nested too deeply")
        if isinstance(value, list):
            return tuple(self._value(v, depth + 1) for v in value)
        if isinstance(value, dict) and len(value) == 1:
            ((kind, content),) = value.items()
            if kind == "node":
                return self._at(content)
            if kind == "dtype":
                return _DTYPES[content]
            if kind == "layout":
                return _LAYOUT_WORDS[content]
            if kind == "float" and content in ("inf", "-inf", "nan"):
                return float(content)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ArtifactError(f"graph.json: an argument {str(value)[:80]!r} is of no known kind")

    def _structure(self, value: Any, values: list[Any], depth: int) -> Any:
        if depth > 20 or not isinstance(value, dict) or len(value) != 1:
            raise ArtifactError("graph.json: the structure of the outputs is malformed")
        ((kind, content),) = value.items()
        if kind == "output":
            if type(content) is not int or not 0 <= content < len(self.graph.outputs):
                raise ArtifactError(f"graph.json: output {content!r} does not exist")
            values.append(content)
            return 0
        if kind == "value":
            if content is not None and not isinstance(content, (bool, int, float, str)):
                raise ArtifactError("graph.json: the structure of the outputs is malformed")
            values.append(("value", content))
            return 0
        if kind == "dict":
            return {str(k): self._structure(v, values, depth + 1) for k, v in content}
        if kind in ("list", "tuple"):
            parts = [self._structure(v, values, depth + 1) for v in content]
            return tuple(parts) if kind == "tuple" else parts
        raise ArtifactError(f"graph.json: outputs cannot stand in a {kind!r}")


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ArtifactError(f"graph.json: {value!r} is no size")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(_size(v) for v in value)
