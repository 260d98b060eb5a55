"""A shared model's parts through ``torch.compile``, or ahead of time through AOTInductor.

Both are checked before they are handed out: compiled parts score inputs of two sizes and must agree with the uncompiled
ones. Every part is an fx module of its own with code of its own, so two models never share an entry of dynamo's cache,
which goes by code object. Without a C++ compiler the parts run as they are, and say so.

A compiled package is native code: it lives in a cache folder that only its owner may write, keyed by graph, weights,
torch and instruction set, and never in a saved model.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthrank.errors import SharingError
from depthrank.kernels.ahead import make_package
from depthrank.kernels.build import compiler_missing
from depthrank.sharing.execution import Parts, one_row
from depthrank.sharing.verify import distance, tensors_of, tolerance

Inputs = Mapping[str, Tensor]
VERSION = 2  # of packages: another one compiles again
WARM_UP_ROWS = (7, 12)  # two sizes: a form that holds for one alone is found out
TRIED_ROWS = 1000  # candidates at which the compiled form must be the faster one


@dataclass(frozen=True)
class Compilation:
    """How the parts were compiled: ``backend`` is "torch.compile", "AOTInductor" or "none", with the reason."""

    backend: str
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """Inputs to warm up and check with: one request, and candidates that may be repeated to any number of rows."""

    request: Inputs
    candidate: Inputs
    item_rows: Tensor | None
    tables: tuple[Tensor, ...]

    def candidates(self, num: int) -> tuple[dict[str, Tensor], Tensor | None]:
        def wide(tensor: Tensor) -> Tensor:
            return tensor[torch.arange(num, device=tensor.device) % tensor.shape[0]]

        rows = None if self.item_rows is None else wide(self.item_rows)
        return {n: wide(t) for n, t in self.candidate.items()}, rows

    def scores(self, parts: Parts, num: int) -> list[Tensor]:
        """What the parts answer for ``num`` candidates."""
        candidate, rows = self.candidates(num)
        like = rows if rows is not None else next(iter(candidate.values()))
        with torch.no_grad():
            state = parts.encode(self.request)
            return tensors_of(parts.score(state, self.tables, candidate, like, 1, None, rows))


def compile_parts(
    parts: Parts, sample: Sample, options: Mapping[str, Any], only_if_faster: bool
) -> tuple[Parts, Compilation]:
    """Parts through ``torch.compile`` with a dynamic number of candidates, warmed up on one request and checked.

    ``only_if_faster`` tries both forms and keeps the parts as they were if compiling slows them down.
    """
    missing = compiler_missing()
    if missing and options.get("backend", "inductor") == "inductor":
        return parts, _uncompiled(missing)
    began = time.perf_counter()
    given: dict[str, Any] = {"dynamic": True} | dict(options)

    def through(part: Any) -> Any:
        return torch.compile(part, **given)

    compiled = parts.passed_through(through)
    _check(parts, compiled, sample)
    slower = _seconds(compiled, sample) / _seconds(parts, sample) if only_if_faster else 0.0
    seconds = time.perf_counter() - began
    if slower > 1.0:
        note = f"compiled, {TRIED_ROWS} candidates take {slower:.1f} times as long: the model runs uncompiled"
        return parts, Compilation("none", seconds, note)
    return compiled, Compilation("torch.compile", seconds)


def _seconds(parts: Parts, sample: Sample, rounds: int = 5) -> float:
    """The best of a few calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        sample.scores(parts, TRIED_ROWS)
        times.append(time.perf_counter() - start)
    return min(times)


def compile_parts_ahead(parts: Parts, sample: Sample, folder: Path) -> tuple[Parts, Compilation]:
    """Parts as AOTInductor packages from the cache ``folder``, made there if they are not; one request at a time.

    Raises ``SharingError`` for a folder that others may write: what lies there is executed.
    """
    began = time.perf_counter()
    _own_folder(folder)
    candidate, rows = sample.candidates(WARM_UP_ROWS[0])
    like = rows if rows is not None else next(iter(candidate.values()))
    with torch.no_grad():
        state = parts.encode(sample.request)
    key = _key(parts, sample.tables)
    arguments = [
        *(candidate[n] for n in parts.candidate_names),
        *state,
        *sample.tables,
        *([] if rows is None else [rows]),
        like,
    ]
    moving = {id(like), *(id(candidate[n]) for n in parts.candidate_names)}
    requests = [sample.request[n] for n in parts.request_names]
    packages = {}
    for name, part, given, dynamic in (
        ("request", parts.request_module, requests, set()),
        ("candidate", parts.candidates_module(True), arguments, moving),
    ):
        path = folder / f"{key}-{name}.pt2"
        if not path.exists() and given:
            missing = compiler_missing()
            if missing:
                return parts, _uncompiled(missing)
            _package(part, given, dynamic, path)
        packages[name] = torch._inductor.aoti_load_package(str(path)) if given else part
    compiled = parts.replaced(_tupled(packages["request"]), _tupled(packages["candidate"]))
    _check(parts, compiled, sample)
    return compiled, Compilation("AOTInductor", time.perf_counter() - began)


def _uncompiled(reason: str) -> Compilation:
    note = f"{reason}: the model runs uncompiled, with the same answers"
    warnings.warn(note, RuntimeWarning, stacklevel=4)
    return Compilation("none", 0.0, note)


def _check(plain: Parts, compiled: Parts, sample: Sample) -> None:
    for num in WARM_UP_ROWS:
        for a, b in zip(sample.scores(compiled, num), sample.scores(plain, num), strict=True):
            error = distance(a, b)
            if error > tolerance(plain.program.graph):
                raise SharingError(f"the compiled form differs by {error:.1e} at {num} candidates: a fault of torch")


def _tupled(call: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    """A package answers with a list, or with a lone tensor."""

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        out = call(*given)
        return (out,) if isinstance(out, Tensor) else tuple(out)

    return run


def _package(part: Any, given: Sequence[Tensor], dynamic: set[int], path: Path) -> None:
    """Export with candidate rows as one dynamic dimension, compile, and put the package in place in one step."""
    rows = torch.export.Dim("rows", min=1)
    shapes = tuple({0: rows} if id(t) in dynamic else None for t in given)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's own code
        program = torch.export.export(part, tuple(given), dynamic_shapes=shapes, strict=False)
        unfinished = path.with_suffix(f".{os.getpid()}.pt2")
        make_package(program, unfinished)
    unfinished.chmod(0o600)
    unfinished.replace(path)


def _own_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = folder.stat()
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or about.st_uid != os.getuid():
        raise SharingError(
            f"{folder} may be written by others, and compiled code in it is executed; give a folder of your own "
            "(chmod 700)"
        )


def _key(parts: Parts, tables: Sequence[Tensor]) -> str:
    """A fingerprint of the graph, its constants, the sizes of its tables, torch and the instruction set."""
    digest = hashlib.sha256()
    digest.update(
        f"{VERSION} {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}".encode()
    )
    digest.update(torch.get_float32_matmul_precision().encode())
    for node in parts.program.graph.live():
        digest.update(repr((node.index, node.op, node.args, node.kwargs, int(node.region), node.name)).encode())
    for index in sorted(parts.constants):
        digest.update(f"{index}".encode())
        digest.update(parts.constants[index].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(repr([tuple(t.shape) for t in tables]).encode())
    return digest.hexdigest()[:32]


def zero_sample(inputs: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
    """A row of zeros of every input: valid ids in every table."""
    return {n: one_row(torch.empty(1, *dims, dtype=dtype)) for n, (dims, dtype) in inputs.items()}
