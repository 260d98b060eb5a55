"""The doctor: facts, advice, and an exit code where something is broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_films import Command

from depthrank.cli import machine, machine_limits
from depthrank.cli.machine import examine
from depthrank.cli.machine_findings import Report


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
    assert "why it matters: artifacts and logs need one" in done.stdout and "what to do: make it: mkdir" in done.stdout


def test_too_many_threads_and_a_limited_kernel_get_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    advice = " ".join(examine(tmp_path).advice)
    assert "OMP_NUM_THREADS=4096 is more than the" in advice
    assert "OPENBLAS_CORETYPE=Haswell limits the kernels" in advice


def test_every_finding_says_what_why_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(machine, "MIN_FREE_BYTES", 2**60)
    findings = examine(tmp_path).findings
    assert len(findings) >= 3
    for finding in findings:
        assert finding.what and finding.why and finding.fix
        assert finding.why != finding.fix


def test_a_low_limit_of_open_files_is_told_and_a_high_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    for soft, told in ((256, 1), (65_536, 0)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, 65_536))
        report = Report()
        machine_limits.open_files(report)
        assert len(report.advice) == told


def test_a_clock_before_the_installation_is_broken_and_a_later_one_is_fine() -> None:
    for now_s, broken in ((1_000_000_000.0, 1), (4_000_000_000.0, 0)):
        report = Report()
        machine_limits.clock(report, now_s)
        assert len(report.broken) == broken


@pytest.mark.parametrize("text, told", [("always madvise [never]", 1), ("always [madvise] never", 0)])
def test_huge_pages_that_are_off_are_told(tmp_path: Path, text: str, told: int) -> None:
    setting = tmp_path / "enabled"
    setting.write_text(text)
    report = Report()
    machine_limits.huge_pages(report, setting)
    assert len(report.advice) == told


@pytest.mark.parametrize("kib, told", [(100_000, 1), (8_000_000, 0)])
def test_little_memory_is_told(tmp_path: Path, kib: int, told: int) -> None:
    source = tmp_path / "meminfo"
    source.write_text(f"MemTotal: 99999999 kB\nMemAvailable: {kib} kB\n")
    report = Report()
    machine_limits.memory(report, source)
    assert len(report.advice) == told


def test_a_log_is_opened_and_an_event_from_the_future_is_told(tmp_path: Path) -> None:
    from depthrank.events import EventBatch, open_log

    url = f"lmdb:{tmp_path / 'events'}"
    with open_log(url) as log:
        log.append(EventBatch(user=["u"], item=["i"], action=["click"], time_ms=np.array([2_000_000], np.int64)))
    for now_s, told in ((1_000.0, 1), (3_000.0, 0)):
        report = Report()
        machine_limits.log_readable(report, url, now_s)
        assert len(report.advice) == told and not report.broken
        assert "1 events of 1 users" in report.facts["log"]
    report = Report()
    machine_limits.log_readable(report, f"lmdb:{tmp_path / 'absent'}")
    assert len(report.broken) == 1


def test_an_artifact_that_is_none_is_broken(tmp_path: Path) -> None:
    report = Report()
    machine_limits.artifact_readable(report, tmp_path)
    assert len(report.broken) == 1 and "is not an artifact" in report.broken[0]


def test_a_fine_machine_gets_no_such_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*machine.THREAD_VARIABLES, *machine.KERNEL_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(machine.WAIT_POLICY, raising=False)
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


def test_it_says_why_there_is_no_kernel_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(examine(tmp_path).facts) >= {"kernel of attention", "kernel of small attention"}
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("depthrank.kernels.build.kernels_missing", lambda isa: "")
    report = examine(tmp_path)
    assert report.facts["c++ compiler"] == "none"
    assert "no-such-compiler is not installed" in report.facts["kernel of attention"]
    assert "CXX=no-such-compiler is not installed" in " ".join(report.advice)
