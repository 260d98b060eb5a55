"""docs/data.md: every example is a valid spec, and every field has a line."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from depthrank.schema import Spec, dataset, features, settings, tasks

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=[e.splitlines()[0] for e in EXAMPLES])
def test_an_example_is_a_valid_spec(example: str, tmp_path: Path) -> None:
    (tmp_path / "ranking.yaml").write_text(example, encoding="utf-8")
    Spec.load(tmp_path / "ranking.yaml")


def test_a_broken_example_would_be_told(tmp_path: Path) -> None:
    (tmp_path / "ranking.yaml").write_text(EXAMPLES[0].replace("unit: ms", "unit: hours"), encoding="utf-8")
    with pytest.raises(ValueError, match="unit"):
        Spec.load(tmp_path / "ranking.yaml")


def test_every_field_of_the_spec_stands_in_an_example() -> None:
    written = "\n".join(EXAMPLES)
    missing = [
        f"{struct.__name__}.{field.encode_name}"
        for module in (dataset, features, settings, tasks)
        for struct in vars(module).values()
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct) and struct.__module__ == module.__name__
        for field in msgspec.structs.fields(struct)
        if not re.search(rf"\b{re.escape(field.encode_name)}:", written)
    ]
    assert not missing, f"docs/data.md has no line for {missing}"


def test_the_python_example_compiles() -> None:
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        compile(code, "docs/data.md", "exec")
        exec(code, {})
