"""An unfinished training run on disk, so that it resumes at its last whole epoch. Tensors in safetensors, no pickle.

Processes that train together keep a folder each, with their rows of the tables; all are written before any is put in
place.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from depthrank.artifact.storage import saving_error, sync, sync_tree
from depthrank.errors import ArtifactError
from depthrank.training.loop import LoopState, TrainingLoop

FOLDER = ".training"
STATE_NAME = "state.msgpack"  # not JSON: losses may be infinite


def save_checkpoint(out: Path, loop: TrainingLoop, fingerprint: str) -> None:
    """Write the loop's state beside the artifact; at every moment the old checkpoint or the new one is there, whole.

    Raises StorageFullError when the disk is full.
    """
    fresh, final, old = (_folder(out, loop, suffix) for suffix in (".new", "", ".old"))
    try:
        _write(fresh, loop, fingerprint)
        loop.processes.wait()
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        fresh.rename(final)
        sync(out)
    except (OSError, SafetensorError) as error:
        raise saving_error(error, final) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _folder(out: Path, loop: TrainingLoop, suffix: str) -> Path:
    rank = loop.processes.rank
    return out / f"{FOLDER}{f'-{rank}' if rank else ''}{suffix}"


def _write(folder: Path, loop: TrainingLoop, fingerprint: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file({k: v.detach().clone() for k, v in loop.model.state_dict().items()}, folder / "model.safetensors")
    save_file(dict(loop.best_weights), folder / "best.safetensors")
    save_file(_optimizer_tensors(loop.optimizer.adamw), folder / "optimizer.safetensors")
    state = {"fingerprint": fingerprint, "loop": msgspec.to_builtins(loop.state)}
    (folder / STATE_NAME).write_bytes(msgspec.msgpack.encode(state))
    sync_tree(folder)


def load_checkpoint(out: Path, loop: TrainingLoop, fingerprint: str) -> bool:
    """Continue from ``out``'s checkpoint; False where there is none, ArtifactError where it is of another run."""
    found = _load(out, loop, fingerprint)
    epochs = loop.processes.gathered(loop.state.epoch if found else None)
    if len(set(epochs)) > 1:
        raise ArtifactError(
            f"the checkpoints in {out} are of different epochs ({epochs}), by process: the run ended while it wrote "
            f"them; remove {out / FOLDER}* and train again"
        )
    return found


def _load(out: Path, loop: TrainingLoop, fingerprint: str) -> bool:
    folder = _folder(out, loop, "")
    if not folder.exists():
        folder = _folder(out, loop, ".old")  # the run ended between two renames
    if not (folder / STATE_NAME).is_file():
        return False
    try:
        state = msgspec.msgpack.decode((folder / STATE_NAME).read_bytes())
        if state["fingerprint"] != fingerprint:
            raise ArtifactError(
                f"{folder} is of a run with another spec, seed or data: train without --resume, or remove that folder"
            )
        loop.state = msgspec.convert(state["loop"], LoopState)
        loop.model.load_state_dict(load_file(folder / "model.safetensors"))
        loop.best_weights = load_file(folder / "best.safetensors")
        _restore_optimizer(loop.optimizer.adamw, load_file(folder / "optimizer.safetensors"))
    except (OSError, SafetensorError, msgspec.MsgspecError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"{folder} is damaged ({error}): remove it and train again") from None
    return True


def remove_checkpoint(out: Path) -> None:
    """Drop the checkpoint of a finished run, every process's."""
    for folder in out.glob(f"{FOLDER}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"{index}.{name}"] = torch.as_tensor(value).detach().clone()
    return tensors


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    plain = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**plain, "state": state})
