"""The fingerprint of a machine, and what it is measured to reach."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from depthrank.kernels.hardware import _quota_cores
from depthrank.precision import examine_hardware, measure_peaks

torch.set_num_threads(1)


def test_the_same_machine_has_the_same_fingerprint() -> None:
    here = examine_hardware()
    assert here.fingerprint == examine_hardware().fingerprint and len(here.fingerprint) == 16
    assert here.to_plain()["fingerprint"] == here.fingerprint


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_DEBUG_CPU_TYPE"])
def test_limits_of_the_environment_are_another_machine(name: str) -> None:
    here, limited = examine_hardware({}), examine_hardware({name: "avx2"})
    assert limited.limits == (f"{name}=avx2",)
    assert limited.fingerprint != here.fingerprint
    assert examine_hardware({"HOME": "/root"}).fingerprint == here.fingerprint


def test_everything_that_changes_kernels_changes_the_fingerprint() -> None:
    here = examine_hardware()
    others = [
        replace(here, cpu="another"),
        replace(here, isa=here.isa[1:]),
        replace(here, cores=here.cores + 1),
        replace(here, quota_cores=0.5),
        replace(here, caches=()),
        replace(here, blas="another"),
        replace(here, torch="3.0"),
    ]
    assert len({here.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_a_process_s_own_settings_are_no_other_machine() -> None:
    before, here = torch.get_float32_matmul_precision(), examine_hardware()
    try:
        torch.set_float32_matmul_precision("medium")
        assert examine_hardware() == here
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("nonsense", None)])
def test_a_container_s_quota_is_read(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert _quota_cores(tmp_path / "cpu.max") == cores
    assert _quota_cores(tmp_path / "absent") is None


def test_a_limited_process_calls_itself_another_machine() -> None:
    """In processes of their own, as oneDNN reads its limit when it is loaded."""
    ask = "from depthrank.precision import examine_hardware; print(examine_hardware().fingerprint)"
    environment = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
    found = [
        subprocess.run(
            [sys.executable, "-c", ask], env=environment | extra, capture_output=True, text=True, check=True
        ).stdout.strip()
        for extra in ({}, {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    ]
    assert len(set(found)) == 2


def test_peaks_are_the_best_of_what_was_timed() -> None:
    now = iter(range(10**6))
    peaks = measure_peaks(0.0, clock_s=lambda: float(next(now)))
    assert peaks.fp32 == peaks.bf16 == peaks.int8 == 2 * 1024**3  # a second a call
    assert peaks.of("bf16") == peaks.bf16 and set(peaks.to_plain()) == {"fp32", "bf16", "int8", "copy_bytes"}
