"""No source file can unpickle: no module that does is imported, and no loader is asked to."""

from __future__ import annotations

import ast
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src" / "depthrank"
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {("torch", "load"), ("torch", "save"), ("builtins", "eval"), ("builtins", "exec")}


def unpickling(source: str) -> list[str]:
    """What in a source file could run code out of a data file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            if any(k.arg == "allow_pickle" and not _is_false(k.value) for k in node.keywords):
                found.append("allow_pickle")
            name = node.func
            if isinstance(name, ast.Attribute) and (ast.unparse(name.value), name.attr) in CALLS:
                found.append(ast.unparse(name))
            if isinstance(name, ast.Name) and ("builtins", name.id) in CALLS:
                found.append(name.id)
    return found


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def test_no_source_file_can_unpickle_or_evaluate_text() -> None:
    found = {str(p.relative_to(SRC)): unpickling(p.read_text()) for p in sorted(SRC.rglob("*.py"))}
    assert len(found) > 100 and {name: what for name, what in found.items() if what} == {}


def test_the_check_can_fail() -> None:
    bad = "import pickle\nfrom joblib import load\nnp.load(f, allow_pickle=True)\ntorch.load(f)\neval(x)\n"
    assert sorted(unpickling(bad)) == ["allow_pickle", "eval", "joblib", "pickle", "torch.load"]
    assert unpickling("import json\nnp.load(f, allow_pickle=False)\nmodel.eval()\n") == []
