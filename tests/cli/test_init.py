"""``depthrank init``: from a folder of files to an artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from depthrank.cli.init import init
from depthrank.cli.terminal import UsageProblem
from depthrank.training import train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    row = np.arange(900)
    frame = {
        "user_id": (row // 3) % 30,
        "item_id": rng.integers(0, 40, 900),
        "time": 1_760_000_000 + (row // 3) * 900,
        "price": rng.gamma(2.0, size=900),
        "click": rng.random(900) < 0.3,
    }
    pl.DataFrame(frame).write_csv(tmp_path / "shown.csv")
    return tmp_path


def test_the_guess_trains_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    init(folder)
    told = capsys.readouterr().out
    assert f"{folder / 'ranking.yaml'}: " in told and "tasks click" in told
    assert f"depthrank train {folder / 'ranking.yaml'} --out {folder / 'artifact'}" in told
    quick = (folder / "ranking.yaml").read_text() + "training: {epochs: 1, replay_seconds: 0.1}\n"
    (folder / "quick.yaml").write_text(quick)
    report = train(folder / "quick.yaml", out=folder / "artifact", progress=False)
    assert report.summary["requests"]["train"] > 100


def test_a_file_that_is_there_is_replaced_only_when_told_so(folder: Path) -> None:
    (folder / "ranking.yaml").write_text("name: mine\n")
    with pytest.raises(UsageProblem, match="--force replaces it"):
        init(folder)
    assert (folder / "ranking.yaml").read_text() == "name: mine\n"
    init(folder, out=folder / "other.yaml")
    init(folder, force=True)
    assert (folder / "ranking.yaml").read_text() == (folder / "other.yaml").read_text() != "name: mine\n"
