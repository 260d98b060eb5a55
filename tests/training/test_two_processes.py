"""Processes that train together: the same weights as one, clear ends, and a checkpoint that goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch

from depthrank.artifact import load_artifact
from depthrank.errors import CapacityError, SpecError
from depthrank.schema import Spec
from depthrank.tables import served_tables
from depthrank.training import train
from depthrank.training.checkpoint import FOLDER
from depthrank.training.processes import Processes
from depthrank.training.sharded_tables import sharded_bags
from depthrank.training.start_processes import check_together, started
from planted_world import write_tiny_world

if find_spec("torchrec") is None:
    pytest.skip("torchrec is missing: make setup", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose last step is not full."""
    torch.set_num_threads(1)
    return write_tiny_world(tmp_path_factory.mktemp("together"), batch_requests=8, batches_per_step=4).parent


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    train(folder / "ranking.yaml", log=f"lmdb:{folder / 'log'}", out=folder / "one", progress=False)
    return folder / "one"


def start(folder: Path, out: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "depthrank.cli", "train", "ranking.yaml", "--out", out, "--log", f"lmdb:log-{out}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    return subprocess.Popen(
        [*command, "--processes", "2", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def distance(one: Path, other: Path) -> float:
    """The largest difference of any weight or row."""
    a, b = load_artifact(one).model, load_artifact(other).model
    pairs = [(a.state_dict()[name], tensor) for name, tensor in b.state_dict().items()]
    rows = zip(served_tables(a).values(), served_tables(b).values(), strict=True)
    for mine, yours in rows:
        every = torch.arange(mine.source.num_rows)
        pairs.append((mine.source.rows(every), yours.source.rows(every)))
    return max(float((x.float() - y.float()).abs().max()) for x, y in pairs if x.numel())


def test_a_run_whose_other_process_was_killed_says_so_and_goes_on_to_what_one_process_learns(folder, alone):
    run = start(folder, "two")
    children = psutil.Process(run.pid)
    for _ in range(1200):
        if (folder / "two" / f"{FOLDER}-1").exists() or run.poll() is not None:
            break
        time.sleep(0.05)
    assert run.poll() is None, run.communicate()[0]
    trainers = [child for child in children.children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(trainers) == 1
    trainers[0].kill()
    said, _ = run.communicate(timeout=120)
    assert run.returncode and "ended (exit code -9)" in said and "--resume goes on" in said and "Traceback" not in said
    again = start(folder, "two", "--resume")
    said, _ = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert "Warning" not in said and "WARNING" not in said, said
    assert distance(alone, folder / "two") < 1e-4
    assert load_artifact(folder / "two").manifest.training["processes"] == 2
    assert not list((folder / "two").glob(f"{FOLDER}*")), "a finished run leaves no checkpoint"


def test_two_other_seeds_differ_by_far_more_than_two_processes_from_one(folder, alone):
    train(folder / "ranking.yaml", log=f"lmdb:{folder / 'log'}", out=folder / "other", seed=1, progress=False)
    assert distance(alone, folder / "other") > 1e-2


def test_what_several_processes_cannot_train_is_refused_with_what_to_do(folder):
    spec, three = Spec.load(folder / "ranking.yaml"), Processes(0, 3)
    with pytest.raises(SpecError, match=r"batches_per_step is 4, which 3 processes .* make it 6"):
        check_together(spec, three)
    plain = spec.to_plain()
    moving = Spec.from_plain({**plain, "tables": {**plain["tables"], "budget": "20KB", "admit": 2}})
    with pytest.raises(SpecError, match=r"tables\.admit"):
        check_together(moving, Processes(0, 2))
    check_together(moving, Processes())


def test_without_torchrec_the_error_says_where_to_read_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec", None)
    with pytest.raises(CapacityError, match=r"need TorchRec.*docs/cluster\.md"):
        sharded_bags(10, 4, Processes(0, 2))


def test_under_torchrun_another_number_of_processes_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SpecError, match="torchrun started 4 processes"), started(3, lambda processes: None):
        pass
