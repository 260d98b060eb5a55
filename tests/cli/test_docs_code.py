"""Python in the README, in docs/ and in docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import shutil
from pathlib import Path

import pytest
from code_blocks import Block, blocks_of
from small_films import SmallDemo

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if blocks_of(page.read_text(), "python")]
SRC = ROOT / "src"
WITH_DOCTESTS = [path for path in sorted(SRC.rglob("*.py")) if ">>> " in path.read_text()]


def run(block: Block, page: str, names: dict[str, object]) -> None:
    """Run a block so that a traceback shows the page and its line."""
    code = compile("\n" * (block.line - 1) + block.code, page, "exec")
    exec(code, names)


@pytest.mark.parametrize("page", WITH_CODE, ids=[p.name for p in WITH_CODE])
def test_python_of_a_page_runs_from_top_to_bottom(
    page: Path, small_demo: SmallDemo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_demo.folder, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks_of(page.read_text(), "python"):
        if block.not_run is None:
            run(block, str(page.relative_to(ROOT)), names)


@pytest.mark.parametrize("path", WITH_DOCTESTS, ids=[p.name for p in WITH_DOCTESTS])
def test_examples_in_docstrings_run(path: Path) -> None:
    module = importlib.import_module(
        str(path.relative_to(SRC).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    )
    result = doctest.testmod(module, verbose=False)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_readme_has_python_in_at_most_twelve_lines() -> None:
    (block,) = blocks_of((ROOT / "README.md").read_text(), "python")
    assert len([line for line in block.code.splitlines() if line.strip()]) <= 12


def test_blocks_are_found_with_their_language_line_and_reason() -> None:
    text = "a\n\n```python\nx = 1\n```\n\n<!-- not run: needs a GPU -->\n```python\ny = 2\n```\n```sh\nls\n```\n"
    assert blocks_of(text, "python") == [
        Block("python", "x = 1\n", 4, None),
        Block("python", "y = 2\n", 9, "needs a GPU"),
    ]
    assert [b.code for b in blocks_of(text, "sh")] == ["ls\n"]


def test_a_block_that_fails_is_seen_with_its_line() -> None:
    (block,) = blocks_of("text\n\n```python\nok = 1\nraise KeyError(ok)\n```\n", "python")
    with pytest.raises(KeyError) as caught:
        run(block, "page.md", {})
    assert caught.traceback[-1].lineno + 1 == 5
