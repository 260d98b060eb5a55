"""Alerts, runbook, container and unit fit the server that they are for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from depthrank.cli.app import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
SUFFIXES = re.compile(r"_(total|bucket|count|sum)$")


def documented_metrics() -> set[str]:
    lines = (ROOT / "docs" / "operations.md").read_text().splitlines()
    return {SUFFIXES.sub("", x.split("`")[1].split("{")[0]) for x in lines if x.startswith("| `depthrank_")}


def sections(page: str) -> dict[str, str]:
    """Heading -> text."""
    parts = re.split(r"^## ", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def test_every_alert_has_a_section_in_the_runbook_and_the_other_way_round() -> None:
    assert {rule["alert"] for rule in ALERTS} == set(sections("runbook.md"))


@pytest.mark.parametrize("name, text", sections("runbook.md").items())
def test_a_section_says_what_it_means_and_what_to_do(name: str, text: str) -> None:
    assert "**Means**" in text and "**Do**" in text, name


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_exist(rule: dict[str, str]) -> None:
    used = {SUFFIXES.sub("", name) for name in re.findall(r"depthrank_\w+", rule["expr"])}
    assert used and used <= documented_metrics()


@pytest.mark.parametrize("page", ["runbook.md", "slo.md"])
def test_metrics_that_a_page_names_exist(page: str) -> None:
    used = {SUFFIXES.sub("", x) for x in re.findall(r"`(depthrank_\w+)", (ROOT / "docs" / page).read_text())}
    assert used and used <= documented_metrics()


def options_of(verb: str) -> set[str]:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return {option for parameter in commands[verb].params for option in parameter.opts}


@pytest.mark.parametrize("name", ["depthrank.service", "Containerfile"])
def test_the_server_knows_the_options_that_it_is_started_with(name: str) -> None:
    text = (DEPLOY / name).read_text()
    (line,) = [x for x in re.findall(r"depthrank serve .*", text) if "--log-format" in x]
    used = set(re.findall(r"--[a-z-]+", line))
    assert len(used) >= 2 and used <= options_of("serve")


def test_the_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / "depthrank.service"
    unit.write_text((DEPLOY / "depthrank.service").read_text().replace("/opt/depthrank/bin/depthrank", "/bin/true"))
    done = subprocess.run([tool, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "depthrank.service" in line and "User" not in line]
    assert ours == []


def test_the_container_does_not_run_as_root_and_stops_by_a_signal_that_drains() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert re.search(r"^USER depthrank$", text, re.MULTILINE) and "STOPSIGNAL SIGTERM" in text
    assert "/health/ready" in text
