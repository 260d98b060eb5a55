"""What an import must not bring along: heavy packages for the library, offline packages for a server."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "polars", "pyarrow", "msgspec", "lmdb", "starlette", "uvicorn", "rich", "typer")
OFFLINE = ("polars", "pandas", "plotly", "depthrank.data", "depthrank.training", "depthrank.evaluate")


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has after running ``code``."""
    script = f"import sys\n{code}\nsys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines())


def test_importing_depthrank_loads_nothing_heavy() -> None:
    assert not loaded_by("import depthrank").intersection(HEAVY)


def test_a_spec_can_be_read_without_torch_or_numpy() -> None:
    assert not loaded_by("import depthrank; depthrank.Spec").intersection({"torch", "numpy", "polars"})


def test_the_check_sees_what_a_heavy_name_brings() -> None:
    assert {"torch", "numpy"} <= loaded_by("import depthrank; depthrank.share")


def test_the_commands_help_loads_nothing_heavy() -> None:
    code = (
        "import depthrank.cli\nsys.argv[1:] = ['train', '--help']\ntry: depthrank.cli.main()\nexcept SystemExit: pass"
    )
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert not loaded.intersection({"torch", "numpy", "polars", "pyarrow", "starlette"})


def test_serving_loads_nothing_of_training() -> None:
    loaded = loaded_by("import depthrank.server, depthrank.engine, depthrank.sharing, depthrank.cli.serve")
    assert "torch" in loaded
    assert not loaded.intersection(OFFLINE)


def test_a_taken_port_is_found_before_torch_is_loaded() -> None:
    assert "torch" not in loaded_by("import depthrank.server, depthrank.cli.serve")


@pytest.mark.parametrize("module", OFFLINE[3:])
def test_the_check_sees_an_offline_room(module: str) -> None:
    assert module in loaded_by(f"import {module}").intersection(OFFLINE)
