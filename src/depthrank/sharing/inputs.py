"""The names of a module's inputs: from its ordinary example to named tensors, and back.

An input is named by its forward parameter, by its dict key when the module takes one dict, and by both
(``user.age``) when it takes several containers.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from depthrank.errors import SharingError, did_you_mean

Columns = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModuleInputs:
    """The leaves of one call: names of the tensors in order, the values of the rest, and the structure around them."""

    names: tuple[str, ...]  # of tensor leaves
    leaves: tuple[Any, ...]  # example leaves; tensors among them are the example's
    is_tensor: tuple[bool, ...]
    spec: Any

    @property
    def example(self) -> dict[str, Tensor]:
        tensors = [v for v, is_tensor in zip(self.leaves, self.is_tensor) if is_tensor]
        return dict(zip(self.names, tensors))

    def arguments(self, tensors: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` of the module for these named tensors."""
        ordered = iter([tensors[n] for n in self.names])
        leaves = [next(ordered) if is_tensor else v for v, is_tensor in zip(self.leaves, self.is_tensor)]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return args, kwargs


def read_example(module: nn.Module, example: Any) -> ModuleInputs:
    """Name every tensor of the example; raises ``SharingError`` for one that the module's forward cannot take."""
    every = list(inspect.signature(module.forward).parameters.values())
    parameters = [p for p in every if p.kind != p.VAR_KEYWORD]
    args, kwargs = ((), dict(example)) if _all_keywords(every, example) else _as_call(parameters, example)
    know_containers((args, kwargs))
    flat, spec = pytree.tree_flatten((args, kwargs))
    paths, _ = pytree.tree_flatten_with_path((args, kwargs))
    alone = len(args) == 1 and not kwargs and isinstance(args[0], Mapping)
    names: list[str] = []
    is_tensor = tuple(isinstance(v, Tensor) for v in flat)
    for path, leaf in paths:
        if isinstance(leaf, Tensor):
            names.append(_name(path, parameters, alone))
    if not names:
        raise SharingError("example holds no tensor; expected the module's ordinary input with a leading batch")
    if len(set(names)) != len(names):
        raise SharingError(f"example names an input twice: {names}")
    for name, tensor in zip(names, (v for v in flat if isinstance(v, Tensor))):
        if tensor.dim() == 0:
            raise SharingError(
                f"input {name!r} is a scalar tensor; expected a leading batch of (request, candidate) pairs"
            )
    sizes = {n: int(v.shape[0]) for n, v in zip(names, (v for v in flat if isinstance(v, Tensor)))}
    if len(set(sizes.values())) > 1:
        raise SharingError(f"inputs of the example differ in their number of rows: {sizes}; expected one row a pair")
    if next(iter(sizes.values())) == 0:
        raise SharingError("example has no rows; expected at least one (request, candidate) pair")
    return ModuleInputs(tuple(names), tuple(flat), is_tensor, spec)


def _all_keywords(parameters: Sequence[inspect.Parameter], example: Any) -> bool:
    """Is the example a dict for a forward that takes nothing but ``**kwargs``?"""
    return isinstance(example, Mapping) and bool(parameters) and all(p.kind == p.VAR_KEYWORD for p in parameters)


def know_containers(value: Any) -> None:
    """Tell torch how to take apart the dataclasses and dicts of own classes inside a value, as torch.export asks."""
    kind = type(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if kind not in pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(kind)
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    elif isinstance(value, dict) and kind not in pytree.SUPPORTED_NODES:
        pytree.register_pytree_node(
            kind,
            lambda entries: (list(entries.values()), list(entries)),
            lambda values, names: _dict_of(kind, zip(names, values)),
            serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
            flatten_with_keys_fn=lambda entries: (
                [(pytree.MappingKey(name), v) for name, v in entries.items()],
                list(entries),
            ),
        )
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for v in value:
            know_containers(v)


def _dict_of(kind: type[dict[Any, Any]], entries: Iterable[tuple[Any, Any]]) -> Any:
    """A dict of this class with these entries, whatever its own constructor takes."""
    out: dict[Any, Any] = dict.__new__(kind)
    for name, entry in entries:
        if isinstance(out, OrderedDict):
            OrderedDict.__setitem__(out, name, entry)
        else:
            dict.__setitem__(out, name, entry)
    return out


def _as_call(parameters: Sequence[inspect.Parameter], example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        return (example,), {}
    if (
        isinstance(example, tuple)
        and len(example) == 2
        and isinstance(example[0], tuple)
        and isinstance(example[1], dict)
    ):
        return example[0], example[1]
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    if isinstance(example, Mapping):
        known = {p.name for p in parameters if p.kind != p.VAR_POSITIONAL}
        if known and set(example) <= known:
            return (), dict(example)
        return (dict(example),), {}
    raise SharingError(f"example is a {type(example).__name__}; expected a tensor, a tuple, a dict, or (args, kwargs)")


def _name(path: tuple[Any, ...], parameters: Sequence[inspect.Parameter], alone: bool) -> str:
    """Path of a leaf in (args, kwargs) -> its name."""
    in_kwargs = path[0].idx == 1
    keys = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path[1:]]
    if in_kwargs:
        return ".".join(keys)
    place = int(keys[0])
    if alone:
        return ".".join(keys[1:])
    if place < len(parameters) and parameters[place].kind != inspect.Parameter.VAR_POSITIONAL:
        keys[0] = parameters[place].name
    elif parameters and parameters[-1].kind == inspect.Parameter.VAR_POSITIONAL:
        keys[0] = f"{parameters[-1].name}.{place - len(parameters) + 1}"
    return ".".join(keys)


@dataclass(frozen=True)
class Sides:
    """Which inputs, or which columns of a packed matrix, come with the request."""

    request: tuple[str, ...]  # whole inputs, and packed ones
    candidate: tuple[str, ...]
    packed: Columns  # request columns of packed matrices
    width: dict[str, int]  # all columns of packed matrices

    def candidate_columns(self, name: str) -> tuple[int, ...]:
        mine = set(self.packed[name])
        return tuple(k for k in range(self.width[name]) if k not in mine)


def split_sides(inputs: ModuleInputs, request_inputs: Any) -> Sides:
    """Read ``request_inputs``; raises ``SharingError`` that lists the known names for an unknown one."""
    example = inputs.example
    if isinstance(request_inputs, str):
        request_inputs = [request_inputs]
    wanted = dict(request_inputs) if isinstance(request_inputs, Mapping) else dict.fromkeys(request_inputs)
    whole: list[str] = []
    packed: Columns = {}
    width: dict[str, int] = {}
    for name, columns in wanted.items():
        found = [n for n in example if n == name or n.startswith(f"{name}.")]
        if not found:
            near = did_you_mean(str(name), example)
            hint = f"; did you mean {near!r}?" if near else ""
            raise SharingError(f"request_inputs names {name!r}; the module's inputs are {sorted(example)}{hint}")
        if columns is None:
            whole += found
            continue
        size = int(example[name].shape[1]) if example[name].dim() == 2 else 0
        chosen = (
            tuple(range(size))[columns] if isinstance(columns, slice) else tuple(int(c) % max(size, 1) for c in columns)
        )
        if not size or not chosen or len(set(chosen)) != len(chosen):
            raise SharingError(
                f"request_inputs[{name!r}] = {columns}: expected distinct columns of a packed [B, F] matrix"
            )
        if len(chosen) == size:
            whole.append(name)
            continue
        packed[name] = tuple(sorted(chosen))
        width[name] = size
    candidate = tuple(n for n in example if n not in whole)
    return Sides((*whole, *packed), candidate, packed, width)


def join_pairs(
    sides: Sides, request: Mapping[str, Tensor], candidate: Mapping[str, Tensor], request_of_candidate: Tensor
) -> dict[str, Tensor]:
    """The module's own inputs, one row a pair: the request's values replicated."""
    out: dict[str, Tensor] = {}
    for name, value in request.items():
        out[name] = torch.index_select(value, 0, request_of_candidate)
    for name, value in candidate.items():
        if name in sides.packed:
            whole = value.new_empty(value.shape[0], sides.width[name])
            whole[:, list(sides.packed[name])] = out[name].to(value.dtype)
            whole[:, list(sides.candidate_columns(name))] = value
            out[name] = whole
        else:
            out[name] = value
    return out


def split_pairs(sides: Sides, pairs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Request columns and candidate columns of inputs that have one row a pair."""
    request = {n: pairs[n][:, list(sides.packed[n])] if n in sides.packed else pairs[n] for n in sides.request}
    candidate = {
        n: pairs[n][:, list(sides.candidate_columns(n))] if n in sides.packed else pairs[n] for n in sides.candidate
    }
    return request, candidate
