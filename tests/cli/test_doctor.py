"""The doctor: facts, advice, and an exit code where something is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_films import Command

from depthrank.cli import machine
from depthrank.cli.machine import Report, examine


def test_it_names_versions_processor_threads_and_disk(depthrank: Command, tmp_path: Path) -> None:
    done = depthrank("doctor", tmp_path, "--json", "-")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["versions"]["torch"].startswith("2.")
    assert {"cpu", "cores usable", "isa of torch", "torch threads", "writable", "free disk"} <= set(report["facts"])
    assert report["broken"] == []


def test_a_folder_that_is_not_there_is_broken(depthrank: Command, tmp_path: Path) -> None:
    done = depthrank("doctor", tmp_path / "absent")
    assert done.returncode == 1
    assert "broken: " in done.stdout and "absent is not a folder" in done.stdout.replace("\n", "")


def test_too_many_threads_and_a_limited_kernel_get_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    advice = " ".join(examine(tmp_path).advice)
    assert "OMP_NUM_THREADS=4096 is more than the" in advice
    assert "OPENBLAS_CORETYPE=Haswell limits the kernels" in advice


def test_a_fine_machine_gets_no_such_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*machine.THREAD_VARIABLES, *machine.KERNEL_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    assert not [line for line in examine(tmp_path).advice if "_" in line.split("=")[0]]


def test_a_missing_package_is_broken_and_a_missing_optional_one_is_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package", "no-such-option"))
    monkeypatch.setattr(machine, "OPTIONAL", ("no-such-option",))
    report = Report()
    machine._versions(report)
    assert report.versions["no-such-package"] == "not installed"
    assert report.broken == ["no-such-package is not installed; run: pip install no-such-package"]
    assert report.advice == ["no-such-option is not installed; run: pip install no-such-option"]


def test_little_free_disk_gets_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MIN_FREE_BYTES", 2**60)
    assert any("GiB free" in line for line in examine(tmp_path).advice)
