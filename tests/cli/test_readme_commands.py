"""Every command of the README runs, in a folder as `make demo` leaves it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from code_blocks import blocks_of
from small_films import SmallDemo

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = [block.code for block in blocks_of((ROOT / "README.md").read_text(), "sh")]
MAKE, COMMANDS = [b for b in BLOCKS if b.startswith("make ")], [b for b in BLOCKS if not b.startswith("make ")]


def bash(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a person would paste it; the first failing command ends it, and what it started is ended."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    script = f"set -e -m\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
    return subprocess.run(["bash", "-c", script], cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


@pytest.fixture
def folder(small_demo: SmallDemo, tmp_path: Path) -> Path:
    shutil.copytree(small_demo.folder, tmp_path / "demo")
    return tmp_path


def test_the_readme_opens_with_the_main_job_and_the_tests() -> None:
    commands = [line.split("#")[0].strip() for line in BLOCKS[0].splitlines()]
    assert commands == ["make demo", "make test"]
    assert (ROOT / "README.md").read_text().index("```sh") < 40


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", "".join(MAKE), flags=re.M))
def test_make_targets_exist(target: str) -> None:
    """CI runs them whole; here make only says what it would do."""
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_make_target_that_does_not_exist_is_seen() -> None:
    done = subprocess.run(["make", "--dry-run", "demos"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0


@pytest.mark.parametrize("script", COMMANDS, ids=[c.split("\n")[0][:40] for c in COMMANDS])
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's commands use curl")
def test_commands_run_as_written(script: str, folder: Path) -> None:
    done = bash(script, folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_command_that_fails_is_seen(folder: Path) -> None:
    assert bash("depthrank inspect demo/artefact\necho reached", folder).returncode == 1
