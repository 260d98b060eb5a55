"""What a server must not import before it is ready: each of these took a tenth of the start or more."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SLOW = {"pandas", "polars", "sympy", "torch._dynamo", "torch._inductor", "depthrank.sharing"}


def test_loading_and_ranking_bring_no_slow_package(world: Any, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "events", tmp_path / "events")
    artifact, log = str(world.artifact), f"lmdb:{tmp_path / 'events'}"
    code = (
        "import sys; from depthrank.engine import Ranker; "
        f"ranker = Ranker.load({artifact!r}, {log!r}); ranker.warm(); "
        "sys.stdout.write('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines())
    assert {"torch", "pyarrow.parquet"} <= loaded, "the control"
    assert loaded & SLOW == set()
