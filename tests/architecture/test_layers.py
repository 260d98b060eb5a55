"""The import contracts hold; and copies of the tree that break them are caught."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=root, env={"PYTHONPATH": str(root / "src")}, capture_output=True, text=True
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src" / "depthrank", tmp_path / "src" / "depthrank")
    return tmp_path


def append(root: Path, room: str, line: str) -> None:
    path = root / "src" / "depthrank" / room / "__init__.py"
    path.write_text(path.read_text() + "\n" + line + "\n")


def test_every_import_goes_down_the_layers() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


def test_an_import_upwards_is_caught(copy: Path) -> None:
    append(copy, "errors", "import depthrank.schema")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "depthrank.errors is not allowed to import depthrank.schema" in done.stdout


def test_serving_that_imports_polars_is_caught(copy: Path) -> None:
    append(copy, "catalogue", "import polars")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "depthrank.catalogue is not allowed to import polars" in done.stdout


def test_a_room_that_nobody_listed_is_caught(copy: Path) -> None:
    (copy / "src" / "depthrank" / "helpers").mkdir()
    (copy / "src" / "depthrank" / "helpers" / "__init__.py").write_text('"""No."""\n')
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "helpers" in done.stdout
