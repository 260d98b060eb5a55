"""Code compiled ahead of time by AOTInductor, without a leak of torch 2.13.

Its C++ wrapper writes an optional tensor argument twice (``CppWrapperCpu.val_to_arg_str``) and uses the second alone.
Where that argument is a view, as in a product with a residual added, the first is a handle that nobody releases, and
every call keeps a tensor: half a megabyte a request for the levels of the largest preset. While a package is made here,
such an argument is written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def make_package(program: torch.export.ExportedProgram, path: Path, **configs: Any) -> None:
    """Compile an exported program into the package ``path``; ``configs`` are Inductor's."""
    with _arguments_written_once():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)


@contextmanager
def _arguments_written_once() -> Iterator[None]:
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

    theirs: Any = CppWrapperCpu.val_to_arg_str

    def val_to_arg_str(self: Any, val: Any, type_: Any = None) -> str:
        element = type_.getElementType() if isinstance(type_, torch.OptionalType) else None
        if val is None or not isinstance(element, torch.TensorType):
            return str(theirs(self, val, type_))
        return f"&temporary_reference({theirs(self, val, element)}.get())"

    wrapper: Any = CppWrapperCpu
    wrapper.val_to_arg_str = val_to_arg_str
    try:
        yield
    finally:
        wrapper.val_to_arg_str = theirs
