"""What ``depthrank doctor`` looks at: each check gives facts, and advice where something should change."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from depthrank.cli.threads import usable_cores

PACKAGES = ("depthrank", "torch", "numpy", "polars", "pyarrow", "msgspec", "lmdb", "redis", "starlette", "uvicorn")
OPTIONAL = ("redis",)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
KERNEL_VARIABLES = ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
MIN_FREE_BYTES = 2 * 1024**3
GIB = 1024**3


@dataclass
class Report:
    """versions and facts by name; broken: what must be put right; advice: what would help."""

    versions: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(folder: Path) -> Report:
    """Run every check."""
    report = Report()
    checks: tuple[Callable[[Report], None], ...] = (_versions, _processor, _threads, _compiler)
    for check in checks:
        check(report)
    _storage(report, folder)
    return report


def _versions(report: Report) -> None:
    report.versions["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            report.versions[package] = version(package)
        except PackageNotFoundError:
            report.versions[package] = "not installed"
            where = report.advice if package in OPTIONAL else report.broken
            where.append(f"{package} is not installed; run: pip install {package}")


def _processor(report: Report) -> None:
    import torch

    names = list(_cpu_field("model name"))
    report.facts["cpu"] = names[0] if names else platform.processor() or platform.machine()
    report.facts["cores usable"] = f"{usable_cores()} of {os.cpu_count()}"
    report.facts["isa of torch"] = torch.backends.cpu.get_cpu_capability()
    flags = set(next(_cpu_field("flags"), "").split())
    formats = [
        name for name, flag in (("bf16", "avx512_bf16"), ("int8", "avx512_vnni"), ("amx", "amx_tile")) if flag in flags
    ]
    report.facts["fast formats"] = ", ".join(formats) or "fp32 only"
    for name in KERNEL_VARIABLES:
        if name in os.environ:
            report.facts[name] = os.environ[name]
            report.advice.append(
                f"{name}={os.environ[name]} limits the kernels; unset it unless you know why it is there"
            )


def _cpu_field(name: str) -> Iterator[str]:
    """Values of a field of /proc/cpuinfo (nothing where there is none)."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith((name + "\t", name + ":")):
                yield line.partition(":")[2].strip()


def _threads(report: Report) -> None:
    import torch

    report.facts["torch threads"] = str(torch.get_num_threads())
    report.facts["matmul library"] = "mkl" if torch._C.has_mkl else "other"
    report.facts["onednn"] = "yes" if torch._C._has_mkldnn else "no"
    cores = usable_cores()
    for name in THREAD_VARIABLES:
        text = os.environ.get(name)
        if text is not None:
            report.facts[name] = text
            if text.isdigit() and int(text) > cores:
                report.advice.append(
                    f"{name}={text} is more than the {cores} usable cores; set it to {cores} or unset it"
                )
    if cores < 2:
        report.advice.append("one usable core: training and serving will share it")


def _compiler(report: Report) -> None:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    report.facts["c++ compiler"] = compiler or "none (models run eagerly, with the same answers)"


def _storage(report: Report, folder: Path) -> None:
    report.facts["folder"] = str(folder.resolve())
    if not folder.is_dir():
        report.broken.append(f"{folder} is not a folder")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
        report.facts["writable"] = "yes"
    except OSError as error:
        report.facts["writable"] = "no"
        report.broken.append(f"cannot write in {folder}: {error.strerror}; choose another folder or change its rights")
    free = shutil.disk_usage(folder).free
    report.facts["free disk"] = f"{free / GIB:.1f} GiB"
    if free < MIN_FREE_BYTES:
        report.advice.append(
            f"only {free / GIB:.1f} GiB free; logs and artifacts want {MIN_FREE_BYTES // GIB} GiB or more"
        )
