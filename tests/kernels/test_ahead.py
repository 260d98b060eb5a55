"""Compiled packages keep nothing of a call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from depthrank.kernels.ahead import make_package
from depthrank.kernels.build import compiler_missing
from depthrank.precision import Format, LayerChoice, in_formats
from depthrank.precision.compilable import compilable

torch.set_num_threads(1)


class Residual(nn.Module):
    """What a level is made of: a product in int8 whose result is added to a view of what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(64, 64, bias=False)
        self.up, self.down = nn.Linear(64, 128, bias=False), nn.Linear(128, 64, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        x_1ND = self.enter(x_ND).unsqueeze(0)
        scaled = x_1ND * x_1ND.square().mean(dim=-1, keepdim=True).rsqrt()
        y: Tensor = x_1ND + self.down(torch.relu(self.up(scaled)))
        return (y * y.square().mean(dim=-1, keepdim=True).rsqrt()).squeeze(0)


def kept_kb(package: Path, x: Tensor) -> float:
    """Kilobytes that a call leaves behind."""
    run = torch._inductor.aoti_load_package(str(package))

    def resident_kb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4

    with torch.inference_mode():
        for _ in range(200):
            run(x)
        before = resident_kb()
        for _ in range(1_000):
            run(x)
        return (resident_kb() - before) / 1_000


@torch.no_grad()
def measured(folder: Path) -> dict[str, float]:
    """Kilobytes that a call keeps, of our package and of torch's own."""
    torch.manual_seed(0)
    plain = Residual().eval().requires_grad_(False)
    choices = {name: LayerChoice(Format.INT8_STATIC, 0.03) for name in ("enter", "up", "down")}
    x = torch.randn(300, 64)
    rows = torch.export.Dim("rows", min=2, max=1_000)
    program = torch.export.export(compilable(plain, choices), (x,), dynamic_shapes=({0: rows},), strict=False)
    ours, theirs = folder / "ours.pt2", folder / "theirs.pt2"
    make_package(program, ours, freezing=True)
    torch._inductor.aoti_compile_and_package(program, package_path=str(theirs), inductor_configs={"freezing": True})
    compiled, eager = torch._inductor.aoti_load_package(str(ours)), in_formats(plain, choices)
    torch.testing.assert_close(compiled(x), eager(x), atol=0.1, rtol=0.1)
    return {"ours": kept_kb(ours, x), "theirs": kept_kb(theirs, x)}


@pytest.mark.skipif(bool(compiler_missing()), reason=compiler_missing() or "there is one")
def test_a_call_of_a_package_keeps_no_memory(tmp_path: Path) -> None:
    """In a process of its own: what was compiled before decides which patterns torch knows."""
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout.splitlines()[-1])
    assert kept["ours"] < 1.0
    assert kept["theirs"] > 10.0, "torch has mended it: this file's reason is gone"


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]))))
