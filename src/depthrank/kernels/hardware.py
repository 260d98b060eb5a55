"""What decides which format is fast: instruction sets, cores, caches, libraries, torch.

Its fingerprint names a policy. Everything that changes the kernels is in it, the environment's limits too
(``ONEDNN_MAX_CPU_ISA=AVX2`` is another machine), and nothing that changes from boot to boot or from process to process.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from blake3 import blake3

ISA_FLAGS = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "bf16", "i8mm", "sve"),
)
KERNEL_VARIABLES = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "ATEN_CPU_CAPABILITY"),
    *("MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "MKL_CBWR", "LD_PRELOAD"),
)
CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Hardware:
    """Facts that the kernels depend on. ``quota_cores``: what the container may use, None without a limit."""

    cpu: str
    isa: tuple[str, ...]
    torch_isa: str
    cores: int
    quota_cores: float | None
    caches: tuple[str, ...]
    blas: str
    torch: str
    limits: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of everything above."""
        return blake3(msgspec.json.encode(asdict(self), order="deterministic")).hexdigest()[:16]

    def to_plain(self) -> dict[str, Any]:
        """For JSON, the fingerprint included."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(asdict(self)))
        return {**plain, "fingerprint": self.fingerprint}


def examine_hardware(environment: Mapping[str, str] = os.environ) -> Hardware:
    """This machine, as this process sees it."""
    flags = set(_cpu_field("flags").split()) | set(_cpu_field("Features").split())
    return Hardware(
        cpu=_cpu_field("model name") or platform.processor() or platform.machine(),
        isa=tuple(flag for flag in ISA_FLAGS if flag in flags),
        torch_isa=torch.backends.cpu.get_cpu_capability(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota_cores=_quota_cores(QUOTA),
        caches=tuple(_caches(CACHES)),
        blas=_blas(),
        torch=str(torch.__version__),
        limits=tuple(f"{name}={environment[name]}" for name in KERNEL_VARIABLES if environment.get(name)),
    )


def _blas() -> str:
    """The libraries that torch was built with for products; which of them runs fp32 is the process's own setting."""
    built = {"MKL": torch._C.has_mkl, "oneDNN": torch._C._has_mkldnn}
    return " and ".join(name for name, there in built.items() if there) or "other"


def _cpu_field(name: str) -> str:
    """The first value of a field of /proc/cpuinfo; empty where there is none."""
    if not CPUINFO.exists():
        return ""
    for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.split(":")[0].strip() == name:
            return line.partition(":")[2].strip()
    return ""


def _quota_cores(path: Path) -> float | None:
    """Cores of the cgroup's quota."""
    if not path.is_file():
        return None
    words = path.read_text(encoding="utf-8").split()
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit() or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def _caches(folder: Path) -> list[str]:
    """Level, type and size of each cache of the first core."""
    found = []
    for index in sorted(folder.glob("index*")):
        parts = [index / name for name in ("level", "type", "size")]
        if all(part.is_file() for part in parts):
            level, kind, size = (part.read_text(encoding="utf-8").strip() for part in parts)
            found.append(f"L{level} {kind} {size}")
    return found
