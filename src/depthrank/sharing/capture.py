"""Capture a module as torch.export sees it: one named batch dimension, functional operators, no Python left."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from depthrank.sharing.decompose import decompose
from depthrank.sharing.inputs import ModuleInputs, know_containers
from depthrank.sharing.normal_form.reader import has_rule
from depthrank.sharing.refusal import Refused, source_line
from depthrank.sharing.tracing import FixedMeaning


@dataclass(frozen=True)
class Captured:
    """The model's own graph over pairs: its nodes, its tensors by placeholder, its inputs and outputs by name."""

    nodes: tuple[fx.Node, ...]
    tensors: dict[str, tuple[str, Tensor]]  # placeholder -> (name in the module, tensor)
    inputs: dict[str, str]  # placeholder -> input name
    outputs: tuple[Any, ...]  # fx nodes, or plain values
    output_spec: Any
    batch: Any  # the sympy symbol of the batch, or the number of rows it was captured at
    program: Any  # the ExportedProgram, to run it in another precision
    fixed_because: str = ""  # why it could be captured at one number of rows only
    assertions: tuple[str, ...] = ()  # lines whose assert on values is not checked by the captured form
    assumed: dict[str, bool] = dataclasses.field(default_factory=dict)  # lines where a case was taken for granted
    loops_over_steps: bool = False  # does the module itself go through a packed sequence step by step?
    picks_rows: bool = False  # are entries picked by a mask of the inputs?


def tile(tensor: Tensor, rows: int) -> Tensor:
    """The first ``rows`` rows, the tensor repeated as often as it takes."""
    times = -(-rows // tensor.shape[0])
    return tensor.repeat(times, *([1] * (tensor.dim() - 1)))[:rows]


def unused_size(example: dict[str, Tensor]) -> int:
    """A number of rows that no other dimension has, so that a wrong match of sizes cannot pass."""
    taken = {s for t in example.values() for s in t.shape[1:]}
    return next(n for n in (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47) if n not in taken)


def capture(module: nn.Module, inputs: ModuleInputs) -> Captured:
    """Export ``module`` with a dynamic batch; raises ``Refused`` with the model's own line where that is impossible.

    Where Python makes a fixed number of the batch size (``len(x)``, chunks along a folded batch), it is exported at one
    number of rows that divides no other size, and that number is read as the batch.
    """
    try:
        return _capture_at(module, inputs, unused_size(inputs.example), fixed_because="")
    except Refused as refusal:
        if not any(why in refusal.reason for why in (_FIXED, _TIED)):
            raise
        try:
            return _capture_at(module, inputs, _rare_size(module, inputs), fixed_because=refusal.reason)
        except Refused:
            raise refusal from None


def _capture_at(module: nn.Module, inputs: ModuleInputs, rows: int, fixed_because: str) -> Captured:
    args, kwargs = inputs.arguments({n: tile(t, rows) for n, t in inputs.example.items()})
    versions = {name: p._version for name, p in module.named_parameters()}
    know_containers(_own_output(module, args, kwargs, rows))
    written = [name for name, p in module.named_parameters() if versions.get(name) != p._version]
    module = _held(module)
    if _takes_any_keyword(module, kwargs):
        module, args, kwargs = _InOneDict(module), (args, kwargs), {}
    shapes = None
    if not fixed_because:
        batch = Dim("batch", min=1)
        flat, spec = pytree.tree_flatten((args, kwargs))
        marks = [{0: batch} if isinstance(v, Tensor) else None for v in flat]
        shapes = _by_parameter(module, *_as_lists(pytree.tree_unflatten(marks, spec)))
    meaning = FixedMeaning(module, rows if fixed_because else None)
    quiet = io.StringIO()  # torch.export prints the graph of a failure
    try:
        with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            with meaning:
                program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
            program = decompose(program, has_rule)
    except Exception as error:  # torch.export raises many types; each becomes one refusal that keeps its message
        refusal = _explain_failure(error)
        if refusal.reason.startswith(_NO_REASON):
            meaning.masked.check()
            if written:
                why = f"forward writes to the parameter: {written[0]!r}; write to a copy"
                raise Refused(why, "forward") from error
        raise refusal from error
    meaning.masked.check()
    captured = _read(program, inputs, module, rows if fixed_because else None, fixed_because)
    return dataclasses.replace(
        captured,
        assertions=tuple(meaning.assertions),
        assumed=meaning.assumed,
        picks_rows=meaning.masked.used,
        loops_over_steps=meaning.packed.looped,
    )


_RESERVED = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def _held(module: nn.Module) -> nn.Module:
    """The module, or one around it where the name of a parameter or part is one that a captured graph has itself."""
    names = {*module._parameters, *module._buffers, *module._modules}
    own = set(dir(nn.Module()))
    return _Holder(module) if names & (_RESERVED - own) else module


class _Holder(nn.Module):
    """A module as a part of another that is called like it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

        def forward(*args: Any, **kwargs: Any) -> Any:
            return inner(*args, **kwargs)

        forward.__signature__ = inspect.signature(inner.forward)  # type: ignore[attr-defined]
        self.forward = forward


def _takes_any_keyword(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Does a keyword come by ``**kwargs``? torch.export gives such inputs no dynamic batch."""
    parameters = inspect.signature(module.forward).parameters.values()
    return not set(kwargs) <= {p.name for p in parameters if p.kind != inspect.Parameter.VAR_KEYWORD}


class _InOneDict(nn.Module):
    """A module whose keywords come as one dict."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return self.inner(*positional, **named)


def _own_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], rows: int) -> Any:
    """What the module itself returns; raises ``Refused`` if it cannot run at this number of rows."""
    try:
        with torch.no_grad():
            return module(*args, **kwargs)
    except Exception as error:  # a model may raise anything
        text = f"the module itself raises {type(error).__name__} on the example repeated to {rows} rows: {error}"
        raise Refused(text, "forward", _line_of(error)) from error


def _rare_size(module: nn.Module, inputs: ModuleInputs) -> int:
    """A prime number of rows that divides no size of the module's tensors or inputs, nor a size beside one."""
    tensors = [*module.parameters(), *module.buffers()]
    sizes = {s for t in tensors for s in t.shape} | {s for t in inputs.example.values() for s in t.shape[1:]}
    sizes = {s + near for s in sizes for near in (-2, -1, 0, 1, 2)} | {t.numel() for t in tensors}
    return next(
        n for n in (47, 53, 59, 61, 67, 71, 73, 79, 83, 127, 131, 137, 139, 1009) if all(s % n for s in sizes if s)
    )


def _as_lists(value: Any) -> Any:
    """Dataclasses as lists of their fields: how torch.export wants the shapes of one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [getattr(value, f.name) for f in dataclasses.fields(value)]
        return [_as_lists(v) for v in fields if v is not None]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_as_lists, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(_as_lists, value))
    return {k: _as_lists(v) for k, v in value.items()} if type(value) is dict else value


def _by_parameter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    parameters = list(inspect.signature(module.forward).parameters.values())
    shapes: dict[str, Any] = {}
    for place, mark in enumerate(args):
        parameter = parameters[min(place, len(parameters) - 1)]
        if parameter.kind == inspect.Parameter.VAR_POSITIONAL:
            shapes[parameter.name] = tuple(args[place:])
            break
        shapes[parameter.name] = mark
    return shapes | kwargs


_FIXED = "the batch size is used as a fixed number (a loop over rows, len(x), int(x.shape[0]), an index)"
_TIED = "the batch size is tied to a fixed number, or to how many values a mask selects (masked_select, x[mask])"
_KNOWN_FAILURES = (
    (r"specialized it to be a constant", _FIXED),
    (
        r"data-dependent|GuardOnDataDependent|Could not guard",
        "control flow or a shape depends on the values of the batch",
    ),
    (r"Constraints violated", _TIED),
    (r"mutat|assigned during export", "the module changes its own state in forward"),
    (r"\.numpy\(\) is not supported", "forward leaves torch: it turns values of the batch into a NumPy array"),
    (r"quantized", "a quantized module cannot be captured; share the float module, and quantize what share returns"),
)


_NO_REASON = "torch.export cannot capture it"


def _explain_failure(error: Exception) -> Refused:
    text = str(error)
    reason = next((why for pattern, why in _KNOWN_FAILURES if re.search(pattern, text)), _NO_REASON)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return Refused(f"{reason}: {first[:300]}", node="torch.export", source=_line_in_message(text) or _line_of(error))


def _line_in_message(text: str) -> str:
    frames = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*(.*)', text)
    own = [f for f in frames if "/torch/" not in f[0]]
    return f"{own[-1][0]}:{own[-1][1]}  {own[-1][2].strip()}" if own else ""


def _line_of(error: BaseException) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    standard = inspect.__file__.removesuffix("inspect.py")
    own = [f for f in frames if not any(w in f.filename for w in ("/torch/", "/depthrank/sharing/"))]
    own = [f for f in own if "site-packages" in f.filename or not f.filename.startswith(standard)]
    inner = (
        own[-1] if own and any("/depthrank/sharing/" in f.filename for f in frames[: frames.index(own[-1])]) else None
    )
    return f"{inner.filename}:{inner.lineno}  {inner.line}" if inner else ""


def _read(
    program: Any,
    inputs: ModuleInputs,
    module: nn.Module,
    rows: int | None,
    fixed_because: str,
) -> Captured:
    signature = program.graph_signature
    renormalised = {n.name for n in program.graph.nodes if "embedding_renorm" in str(n.target)}  # its rule says why
    parameters = {node: name for node, name in signature.parameters_to_mutate.items() if node not in renormalised}
    if parameters or signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        changed = {**parameters, **signature.buffers_to_mutate, **signature.user_inputs_to_mutate}
        node_name, target = next(iter(changed.items()))
        node = next((n for n in program.graph.nodes if n.name == node_name), None)
        source = source_line(node.meta.get("stack_trace")) if node is not None else ""
        what = "a buffer (batch statistics in train mode?)"
        if target in parameters.values():
            what = "the parameter"
        elif target in signature.user_inputs_to_mutate.values():
            what = "an input"
        name = str(target).removeprefix("inner.")
        raise Refused(f"forward writes to {what}: {name!r}; call module.eval(), or write to a copy", node_name, source)
    own = {
        **dict(module.named_buffers(remove_duplicate=False)),
        **dict(module.named_parameters(remove_duplicate=False)),
    }
    state = {**program.state_dict, **dict(program.constants), **own}
    tensors: dict[str, tuple[str, Tensor]] = {}
    user: list[str] = []
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    for spec, node in zip(signature.input_specs, placeholders):
        if spec.kind.name == "USER_INPUT":
            user.append(node.name)
        elif spec.target in state and isinstance(state[spec.target], Tensor):
            tensors[node.name] = (str(spec.target), state[spec.target])
    named = iter(inputs.names)
    by_name = {}
    for placeholder, is_tensor in zip(user, inputs.is_tensor):
        if is_tensor:
            by_name[placeholder] = next(named)
    output = next(n for n in program.graph.nodes if n.op == "output")
    batch = _batch_symbol(placeholders, by_name) if rows is None else rows
    live = _live(output)
    nodes = tuple(n for n in program.graph.nodes if n.op == "call_function" and n in live)
    outputs, spec = tuple(output.args[0]), program.call_spec.out_spec
    return Captured(nodes, tensors, by_name, outputs, spec, batch, program, fixed_because)


def _live(output: fx.Node) -> set[fx.Node]:
    """What an output depends on: a loss that is dropped may mix rows as it likes."""
    found: set[fx.Node] = set()
    stack = list(output.all_input_nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += node.all_input_nodes
    return found


def _batch_symbol(placeholders: list[fx.Node], by_name: dict[str, str]) -> Any:
    symbols = set()
    for node in placeholders:
        if node.name in by_name:
            size = node.meta["val"].shape[0]
            if isinstance(size, int):
                raise Refused("the batch size became a fixed number when the module was captured", node.name)
            symbols.add(size.node.expr)
    if len(symbols) != 1:
        raise Refused(f"inputs have {len(symbols)} independent batch sizes; expected one row a pair in each", "inputs")
    return symbols.pop()
