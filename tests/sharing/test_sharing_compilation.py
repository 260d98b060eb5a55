"""Further compilation: torch.compile and AOTInductor give the same scores, and without a compiler the model still runs.

Everything is compiled for one thread and a model of three layers, since the C++ compiler is most of the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from depthrank.errors import SharingError
from depthrank.kernels.build import COMPILERS, compiler_missing
from depthrank.sharing import Shared, load_shared, share


class Ranker(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return torch.sigmoid(self.last(torch.relu(self.first(torch.cat([user, item], 1)))))


def shared_ranker(seed: int) -> Shared:
    return share(Ranker(seed).eval(), (torch.randn(4, 8), torch.randn(4, 4)), request_inputs=["user"])


REQUEST = {"user": torch.linspace(-1, 1, 8).reshape(1, 8)}


def candidates(num: int) -> dict[str, Tensor]:
    return {"item": torch.linspace(-2, 2, 4 * num).reshape(num, 4)}


pytestmark = pytest.mark.filterwarnings(  # of torch's own code, when the compiler is imported
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*LeafSpec.*:FutureWarning"
)
needs_compiler = pytest.mark.skipif(bool(compiler_missing()), reason="needs a C++ compiler")


@needs_compiler
def test_two_compiled_models_of_one_class_each_keep_their_own_weights_at_any_number_of_candidates() -> None:
    one, two = shared_ranker(1), shared_ranker(2)
    first, second = one.compile(only_if_faster=False), two.compile(only_if_faster=False)
    assert first.compilation.backend == "torch.compile"
    assert first.compilation.seconds > 0
    assert one.compilation.backend == "none"
    for num in (1, 2, 5, 33):
        a, b = first(REQUEST, candidates(num)), second(REQUEST, candidates(num))
        assert torch.allclose(a, one(REQUEST, candidates(num)), atol=1e-6)
        assert torch.allclose(b, two(REQUEST, candidates(num)), atol=1e-6)
        assert not torch.allclose(a, b, atol=1e-3)


@needs_compiler
def test_a_package_compiled_ahead_is_loaded_by_a_fresh_process_without_a_compiler(tmp_path: Path) -> None:
    shared_ranker(3).save(tmp_path / "model")
    model = load_shared(tmp_path / "model")
    assert isinstance(model, Shared)
    compiled = model.compile_ahead(tmp_path / "cache")
    assert compiled.compilation.backend == "AOTInductor"
    expected = model(REQUEST, candidates(9))
    assert torch.allclose(compiled(REQUEST, candidates(9)), expected, atol=1e-6)
    torch.save(expected, tmp_path / "expected.pt")
    code = f"""
import torch
from depthrank.sharing import load_shared
torch.set_num_threads(1)
model = load_shared({str(tmp_path / "model")!r}).compile_ahead({str(tmp_path / "cache")!r})
scores = model({{"user": torch.linspace(-1, 1, 8).reshape(1, 8)}}, {{"item": torch.linspace(-2, 2, 36).reshape(9, 4)}})
assert torch.allclose(scores, torch.load({str(tmp_path / "expected.pt")!r}), atol=1e-6)
print(model.compilation.backend)
"""
    environment = os.environ | {"CXX": "no-such-compiler", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.stdout.strip() == "AOTInductor", done.stderr


@pytest.mark.parametrize(("only_if_faster", "backend"), [(True, "none"), (False, "torch.compile")])
def test_a_compiled_form_that_is_slower_is_not_used_unless_asked_for(
    only_if_faster: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter((0.3, 0.1))  # of the compiled form, then of the other
    monkeypatch.setattr("depthrank.sharing.compilation._seconds", lambda parts, sample: next(seconds))
    shared = shared_ranker(6)
    model = shared.compile(only_if_faster=only_if_faster, backend="eager")
    assert model.compilation.backend == backend
    assert ("3.0 times as long" in model.compilation.note) == only_if_faster
    assert torch.equal(model(REQUEST, candidates(5)), shared(REQUEST, candidates(5)))


def hide_compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


def test_without_a_compiler_the_model_runs_uncompiled_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = shared_ranker(4)
    hide_compilers(monkeypatch, tmp_path)
    for make in (shared.compile, lambda: shared.compile_ahead(tmp_path / "cache")):
        with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler on PATH: the model runs uncompiled"):
            model = make()
        assert model.compilation.backend == "none"
        assert torch.equal(model(REQUEST, candidates(5)), shared(REQUEST, candidates(5)))


def test_the_compiler_that_cxx_names_is_the_one_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide_compilers(monkeypatch, tmp_path)
    fake = tmp_path / COMPILERS[0]
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o700)
    assert compiler_missing() == ""
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in compiler_missing()


def test_a_cache_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    open_folder = tmp_path / "cache"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    with pytest.raises(SharingError, match="written by others"):
        shared_ranker(5).compile_ahead(open_folder)
