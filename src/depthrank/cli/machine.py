"""What ``depthrank doctor`` looks at: each check gives facts, and advice where something should change."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from depthrank.cli.machine_findings import Report
from depthrank.cli.machine_limits import artifact_readable, clock, huge_pages, log_readable, memory, open_files
from depthrank.cli.threads import usable_cores

PACKAGES = ("depthrank", "torch", "numpy", "polars", "pyarrow", "msgspec", "lmdb", "redis", "starlette", "uvicorn")
OPTIONAL = ("redis",)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
KERNEL_VARIABLES = ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
WAIT_POLICY = "OMP_WAIT_POLICY"
MIN_FREE_BYTES = 2 * 1024**3
GIB = 1024**3


def examine(folder: Path, *, peaks: bool = False, artifact: Path | None = None, log: str | None = None) -> Report:
    """Run every check; ``peaks``: measure what the machine reaches, which takes a few seconds; ``artifact``, ``log``:
    what shall be served."""
    report = Report()
    checks: tuple[Callable[[Report], None], ...] = (_versions, _processor, _threads, _compiler)
    for check in (*checks, open_files, huge_pages, memory, clock):
        check(report)
    _storage(report, folder)
    if artifact is not None:
        artifact_readable(report, artifact)
    if log is not None:
        log_readable(report, log)
    if peaks:
        _peaks(report)
    return report


def _versions(report: Report) -> None:
    report.versions["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            report.versions[package] = version(package)
        except PackageNotFoundError:
            report.versions[package] = "not installed"
            tell = report.advise if package in OPTIONAL else report.fault
            why = "a log on Redis needs it" if package in OPTIONAL else "depthrank does not run without it"
            tell(f"{package} is not installed", why, f"run: pip install {package}")


def _processor(report: Report) -> None:
    from depthrank.precision import examine_hardware

    hardware = examine_hardware()
    report.facts["cpu"] = hardware.cpu
    report.facts["hardware fingerprint"] = hardware.fingerprint
    report.facts["cores usable"] = f"{usable_cores()} of {os.cpu_count()}"
    if hardware.quota_cores is not None:
        report.facts["container's quota"] = f"{hardware.quota_cores:g} cores"
        if hardware.quota_cores < hardware.cores:
            report.advise(
                f"the container may use {hardware.quota_cores:g} of {hardware.cores} cores",
                "the system stops its threads in mid-product when the quota of a tenth of a second is used up",
                f"set OMP_NUM_THREADS and --threads to at most {max(1, int(hardware.quota_cores))}, or raise the quota",
            )
    report.facts["caches"] = ", ".join(hardware.caches) or "unknown"
    report.facts["isa of torch"] = hardware.torch_isa
    report.facts["isa"] = " ".join(hardware.isa) or "unknown"
    wanted = (("bf16", {"avx512_bf16", "bf16"}), ("int8", {"avx512_vnni", "i8mm"}), ("amx", {"amx_tile"}))
    formats = [name for name, flags in wanted if flags & set(hardware.isa)]
    report.facts["fast formats"] = ", ".join(formats) or "fp32 only"
    for name in KERNEL_VARIABLES:
        if name in os.environ:
            report.facts[name] = os.environ[name]
            report.advise(
                f"{name}={os.environ[name]} limits the kernels",
                "products run by older instructions, several times slower, and with other roundings",
                "unset it unless you know why it is there",
            )


def _peaks(report: Report) -> None:
    from depthrank.precision import measure_peaks

    found = measure_peaks()
    for name in ("fp32", "bf16", "int8"):
        report.facts[f"{name} products"] = f"{found.of(name) / 1e9:.0f} GFLOP/s with the threads of torch"
    report.facts["memory copy"] = f"{found.copy_bytes / 1e9:.1f} GB/s"


def _threads(report: Report) -> None:
    import torch

    report.facts["torch threads"] = str(torch.get_num_threads())
    report.facts["matmul library"] = "mkl" if torch._C.has_mkl else "other"
    report.facts["onednn"] = "yes" if torch._C._has_mkldnn else "no"
    cores = usable_cores()
    policy = os.environ.get(WAIT_POLICY, "")
    report.facts["matmul precision"] = f"{torch.get_float32_matmul_precision()} (serving sets medium: oneDNN)"
    if policy.upper() == "ACTIVE":
        report.advise(
            f"{WAIT_POLICY}=ACTIVE",
            "waiting threads spin, which costs a product up to 70 times its time beside a busy neighbour",
            "unset it",
        )
    for name in THREAD_VARIABLES:
        text = os.environ.get(name)
        if text is not None:
            report.facts[name] = text
            if text.isdigit() and int(text) > cores:
                report.advise(
                    f"{name}={text} is more than the {cores} usable cores",
                    "threads then wait for each other in every product",
                    f"set it to {cores} or unset it",
                )
    if cores < 2:
        report.advise("one usable core", "training and serving will share it", "run one at a time, or allow more cores")


def _compiler(report: Report) -> None:
    from depthrank.kernels.attention import ISA as OF_ATTENTION
    from depthrank.kernels.build import compiler, compiler_missing, kernels_missing
    from depthrank.kernels.small_attention import ISA as OF_SMALL_ATTENTION

    missing = compiler_missing()
    report.facts["c++ compiler"] = (shutil.which(compiler()) or compiler()) if not missing else "none"
    of_kernels = {"attention": OF_ATTENTION, "small attention": OF_SMALL_ATTENTION}
    for name, isa in of_kernels.items():
        report.facts[f"kernel of {name}"] = kernels_missing(isa) or missing or "yes"
    if missing:
        report.advise(
            "there is no C++ compiler" if "on PATH" in missing else missing,
            "layers cannot be compiled for this machine; models run eagerly, with the same answers",
            "install one where speed matters: apt-get install g++",
        )


def _storage(report: Report, folder: Path) -> None:
    report.facts["folder"] = str(folder.resolve())
    if not folder.is_dir():
        report.fault(f"{folder} is not a folder", "artifacts and logs need one", f"make it: mkdir -p {folder}")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
        report.facts["writable"] = "yes"
    except OSError as error:
        report.facts["writable"] = "no"
        report.fault(
            f"cannot write in {folder}: {error.strerror}",
            "training and the event log write there",
            "choose another folder or change its rights",
        )
    free = shutil.disk_usage(folder).free
    report.facts["free disk"] = f"{free / GIB:.1f} GiB"
    if free < MIN_FREE_BYTES:
        report.advise(
            f"only {free / GIB:.1f} GiB free",
            "a log grows, an erasure writes it anew, and a server refuses events before the disk is full",
            f"make room: logs and artifacts want {MIN_FREE_BYTES // GIB} GiB or more",
        )
