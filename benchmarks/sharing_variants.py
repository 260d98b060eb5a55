"""What `bench_sharing.py` compares: one model of the zoo as given, by every rival, and shared.

``eager`` is the model as given. ``folded`` has its batch norms folded into linears, ``graph`` is that, exported to one
flat graph: neither shares, and all further rivals start from ``folded``, so that they too have it: ``compile``,
``vmap`` (candidates mapped, request held), ``compile_vmap``, ``ort`` (ONNX Runtime) and ``ahead`` (an AOTInductor
package). Ours: ``ours_plain`` shares ``eager``; ``ours``, ``ours_compiled``, ``ours_ahead`` (``compile_ahead``),
``bound`` (item-only values from a catalogue) and ``bound_compiled`` share ``folded``.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sharing"))

import zoo
from zoo import oracle

OURS = ("ours_plain", "ours", "ours_compiled", "bound", "bound_compiled")
AHEAD = ("ahead", "ours_ahead")
BRIEF = ("eager", "folded", "graph", "ort", "ours", "bound")  # what builds in seconds
COMPILED = ("eager", "folded", "compile", "ort", "ours", "ours_compiled", "bound", "bound_compiled")
Call = Callable[[], Any]


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """A copy in which every batch norm that follows a linear in a Sequential is folded into it."""
    folded = copy.deepcopy(module)
    for block in folded.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for i in range(len(block) - 1):
            if isinstance(block[i], nn.Linear) and isinstance(block[i + 1], nn.BatchNorm1d):
                block[i] = nn.utils.fuse_linear_bn_eval(block[i], block[i + 1])
                block[i + 1] = nn.Identity()
    return folded


class OverNames(nn.Module):
    """The model as a function of tensors in the order of their names, so that exporters see a flat signature."""

    def __init__(self, model: zoo.ZooModel, module: nn.Module, num_request: int) -> None:
        super().__init__()
        self.model, self.inner, self.num_request = model, module, num_request

    def forward(self, *columns: Tensor) -> list[Tensor]:
        names = [*self.model.request_names, *self.model.candidate_names]
        split = self.num_request
        request = dict(zip(names[:split], columns[:split], strict=True))
        candidate = dict(zip(names[split:], columns[split:], strict=True))
        args, kwargs = self.model.call_arguments(request, candidate)
        return tree_leaves(self.inner(*args, **kwargs))


class Contestants:
    """Builds every variant once; a variant that cannot be built leaves its reason in ``failures``."""

    def __init__(self, model: zoo.ZooModel, threads: int, wanted: tuple[str, ...]) -> None:
        self.model, self.threads, self.wanted = model, threads, wanted
        self.eager = model.build()
        self.folded = fold_batch_norms(self.eager)
        self.failures: dict[str, str] = {}
        self.build_seconds: dict[str, float] = {}
        self.makers: dict[str, Callable[[zoo.Inputs], Call]] = {}
        builders = {name: getattr(self, f"build_{name}") for name in wanted}
        for name, builder in builders.items():
            self.attempt(name, builder)

    def attempt(self, name: str, builder: Callable[[], Callable[[zoo.Inputs], Call]]) -> None:
        start = time.perf_counter()
        try:
            self.makers[name] = builder()
        except Exception as error:  # noqa: BLE001 a rival's failure is a result
            self.failures[name] = reason(error)
        self.build_seconds[name] = time.perf_counter() - start

    def build_eager(self) -> Callable[[zoo.Inputs], Call]:
        return self.pair_by_pair(self.eager)

    def build_folded(self) -> Callable[[zoo.Inputs], Call]:
        return self.pair_by_pair(self.folded)

    def build_graph(self) -> Callable[[zoo.Inputs], Call]:
        flat = self.exported().module(check_guards=False)
        return lambda inputs: bind_call(flat, *self.columns(inputs))

    def build_compile(self) -> Callable[[zoo.Inputs], Call]:
        return self.pair_by_pair(torch.compile(self.folded, dynamic=True))

    def build_ahead(self) -> Callable[[zoo.Inputs], Call]:
        path = Path(tempfile.mkdtemp()) / "original.pt2"
        torch._inductor.aoti_compile_and_package(self.exported(), package_path=str(path))
        package = torch._inductor.aoti_load_package(str(path))
        return lambda inputs: bind_call(package, *self.columns(inputs))

    def build_vmap(self) -> Callable[[zoo.Inputs], Call]:
        return lambda inputs: lambda: oracle.by_vmap(self.model, self.folded, inputs)

    def build_compile_vmap(self) -> Callable[[zoo.Inputs], Call]:
        mapped = torch.compile(lambda inputs: oracle.by_vmap(self.model, self.folded, inputs), dynamic=True)
        return lambda inputs: lambda: mapped(inputs)

    def build_ort(self) -> Callable[[zoo.Inputs], Call]:
        import onnxruntime

        if "ort" in self.makers:  # other threads: the exported model is there
            return self.ort_session(onnxruntime)
        columns = self.columns(self.model.draw(1, 4, 4))
        flat = OverNames(self.model, self.folded, len(self.model.request_names)).eval()
        program = torch.onnx.export(flat, columns, dynamo=True, verbose=False, dynamic_shapes=self.dynamic(columns))
        self.onnx_model: bytes = program.model_proto.SerializeToString()
        return self.ort_session(onnxruntime)

    def ort_session(self, onnxruntime: Any) -> Callable[[zoo.Inputs], Call]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(self.onnx_model, options, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        kept = [int(name.rsplit("_", 1)[-1]) if name.startswith("columns_") else i for i, name in enumerate(names)]

        def make(inputs: zoo.Inputs) -> Call:
            arrays = [column.numpy() for column in self.columns(inputs)]
            feed = {name: arrays[i] for name, i in zip(names, kept, strict=True)}
            return lambda: [torch.from_numpy(out) for out in session.run(None, feed)]

        return make

    def build_ours_plain(self) -> Callable[[zoo.Inputs], Call]:
        from depthrank.sharing import share

        shared = share(self.eager, self.model.example(), request_inputs=self.model.request_inputs)
        return lambda inputs: bind_call(shared, inputs.request, inputs.candidate)

    def build_ours(self) -> Callable[[zoo.Inputs], Call]:
        from depthrank.sharing import share

        self.shared = share(self.folded, self.model.example(), request_inputs=self.model.request_inputs)
        return lambda inputs: bind_call(self.shared, inputs.request, inputs.candidate)

    def build_ours_compiled(self) -> Callable[[zoo.Inputs], Call]:
        compiled = self.shared.compile()
        return lambda inputs: bind_call(compiled, inputs.request, inputs.candidate)

    def build_ours_ahead(self) -> Callable[[zoo.Inputs], Call]:
        compiled = self.shared.compile_ahead(tempfile.mkdtemp())
        return lambda inputs: bind_call(compiled, inputs.request, inputs.candidate)

    def build_bound(self) -> Callable[[zoo.Inputs], Call]:
        self.bound = self.shared.bind(self.catalogue)
        return lambda inputs: self.bound_call(self.bound, inputs)

    def build_bound_compiled(self) -> Callable[[zoo.Inputs], Call]:
        compiled = self.bound.compile()
        return lambda inputs: self.bound_call(compiled, inputs)

    @property
    def catalogue(self) -> dict[str, Tensor]:
        """Item-only inputs of a catalogue of 10,000 items; candidates are its first rows."""
        items = self.model.draw(3, 1, 10_000).candidate
        return {name: items[name] for name in self.model.item_names}

    def inputs(self, num_candidates: int) -> zoo.Inputs:
        """One request whose candidates are rows 0.. of the catalogue, so that bound and unbound score the same."""
        drawn = self.model.draw(4, 1, num_candidates)
        items = {name: column[:num_candidates] for name, column in self.catalogue.items()}
        return zoo.Inputs(drawn.request, drawn.candidate | items, drawn.request_of_candidate)

    def bound_call(self, bound: Callable[..., Any], inputs: zoo.Inputs) -> Call:
        others = {name: inputs.candidate[name] for name in self.model.per_request_context}
        return bind_call(bound, inputs.request, torch.arange(inputs.num_candidates), others)

    def pair_by_pair(self, module: Callable[..., Any]) -> Callable[[zoo.Inputs], Call]:
        def make(inputs: zoo.Inputs) -> Call:
            args, kwargs = self.model.call_arguments(*inputs.pairs())
            return bind_call(module, *args, **kwargs)

        return make

    def columns(self, inputs: zoo.Inputs) -> tuple[Tensor, ...]:
        request, candidate = inputs.pairs()
        return (*request.values(), *candidate.values())

    def dynamic(self, columns: tuple[Tensor, ...]) -> Any:
        batch = torch.export.Dim("batch", min=1)
        return (tuple({0: batch} for _ in columns),)

    def exported(self) -> torch.export.ExportedProgram:
        columns = self.columns(self.model.draw(1, 4, 4))
        flat = OverNames(self.model, self.folded, len(self.model.request_names)).eval()
        program = torch.export.export(flat, columns, dynamic_shapes=self.dynamic(columns), strict=False)
        return program.run_decompositions({})


def bind_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return lambda: function(*args, **kwargs)


def reason(error: BaseException) -> str:
    """The first line of an error, short enough for a table."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:200]
