"""A C++ file as a library for this processor: compiled once, sealed in the cache of compiled code."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

from blake3 import blake3

from depthrank.errors import ArtifactError
from depthrank.kernels.compile_cache import CompileCache
from depthrank.kernels.hardware import examine_hardware

COMPILERS = ("c++", "g++", "clang++", "g++-12", "g++-13", "clang")
SOURCES = Path(__file__).parent
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-w", "-mfma")
MOST_SECONDS = 120.0
LIMITING = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
VARIABLE = "DEPTHRANK_KERNELS"  # 0: torch's own operators alone


def compiler() -> str:
    """The C++ compiler of ``CXX`` or PATH; nothing where there is none."""
    named = os.environ.get("CXX")
    return named or next(filter(shutil.which, COMPILERS), "")


def compiler_missing() -> str:
    """Why nothing can be compiled here, or nothing."""
    named = os.environ.get("CXX")
    if named:
        return "" if shutil.which(named) else f"the C++ compiler of CXX={named} is not installed"
    return "" if compiler() else "no C++ compiler on PATH"


def built(name: str, isa: tuple[str, ...], cache: CompileCache | None = None) -> Path:
    """The library made of ``<name>.cpp`` for these instruction sets, from the cache or now.

    Raises ArtifactError where the processor has not all of them, the environment forbids some, or nothing compiles.
    """
    if reason := kernels_missing(isa):
        raise ArtifactError(reason)
    source, header = SOURCES / f"{name}.cpp", SOURCES / "lanes.h"
    told = repr((FLAGS, isa, examine_hardware().fingerprint)).encode()
    key = blake3(source.read_bytes() + header.read_bytes() + told).hexdigest()[:32]
    cache = cache or CompileCache()
    path = cache.find(key)
    return path if path is not None else cache.make(key, lambda unfinished: _compile(source, isa, unfinished))


@cache
def kernels_missing(isa: tuple[str, ...]) -> str:
    """Why kernels of these instruction sets may not run here, or nothing."""
    if os.environ.get(VARIABLE) == "0":
        return f"left out by {VARIABLE}=0"
    here = examine_hardware()
    if absent := [flag for flag in isa if flag not in here.isa]:
        return f"this processor has no {', '.join(absent)}"
    limits = [limit for limit in here.limits if limit.split("=")[0] in LIMITING]
    return f"the environment limits instruction sets: {', '.join(limits)}" if limits else ""


def _compile(source: Path, isa: tuple[str, ...], path: Path) -> None:
    if missing := compiler_missing():
        raise ArtifactError(missing)
    options = [f"-m{flag.replace('_', '')}" for flag in isa]
    command = [compiler(), *FLAGS, *options, str(source), "-o", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=MOST_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArtifactError(f"{shlex.join(command)}: {error}") from error
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise ArtifactError(f"{command[0]} did not compile a kernel: {told[0] if told else done.returncode}")
